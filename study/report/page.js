"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const NARROW = 560, MANY = 1500, PRINTED = 660;
  const rows = {};
  for (const [name, columns] of Object.entries(page.data)) {
    const names = Object.keys(columns);
    rows[name] = (columns[names[0]] || []).map((_, at) => Object.fromEntries(names.map((key) => [key, columns[key][at]])));
  }

  // --- pictures ------------------------------------------------------------------------------------------------
  const views = {};

  function sized(figure, width) {
    const spec = structuredClone(figure.chart);
    if (spec.concat) {
      spec.columns = width < NARROW ? 1 : figure.columns;
      for (const part of spec.concat) part.width = Math.max(140, Math.floor(width / spec.columns) - page.gap);
    } else {
      spec.width = width;
      spec.autosize = { type: "fit-x", contains: "padding" };
    }
    spec.datasets = Object.fromEntries(figure.data.map((name) => [name, rows[name]]));
    return spec;
  }

  async function draw(name, theme, width, renderer) {
    const figure = page.figures[name], old = views[name];
    const many = figure.data.some((data) => rows[data].length > MANY);
    const kept = old ? old.view.getState({ signals: (signal) => figure.kept.includes(signal), data: () => false }).signals : {};
    if (old) old.finalize();
    document.getElementById("controls-" + name).replaceChildren();
    views[name] = await vegaEmbed("#plot-" + name, sized(figure, width), {
      mode: "vega-lite", config: page.themes[theme], renderer: renderer || (many ? "canvas" : "svg"), actions: false,
      bind: "#controls-" + name, tooltip: tip, defaultStyle: false,
    });
    const view = views[name].view;
    if (Object.keys(kept).length) {
      for (const [signal, value] of Object.entries(kept)) view.signal(signal, value);
      view.run();
    }
    if (name === "regimes" && table) {
      select(null); // a map that is drawn anew has no box
      view.addSignalListener("brush", (_, box) => select(box));
    }
  }

  function drawAll(theme, renderer, width) {
    const room = (name) => width || document.getElementById("plot-" + name).clientWidth;
    return Promise.all(Object.keys(page.figures).map((name) => draw(name, theme, room(name), renderer)));
  }

  const theme = () => (dark.matches ? "dark" : "light");
  const tipBox = document.getElementById("tip");

  function tip(handler, event, item, value) {
    tipBox.hidden = value === null || value === undefined || value === "";
    if (tipBox.hidden) return;
    const list = document.createElement("dl");
    for (const [title, text] of Object.entries(typeof value === "object" ? value : { "": value })) {
      if (text === "" || text === "null" || text === "undefined") continue;
      const head = document.createElement("dt"), body = document.createElement("dd");
      head.textContent = title;
      body.textContent = text;
      list.append(head, body);
    }
    tipBox.replaceChildren(list);
    const right = scrollX + document.documentElement.clientWidth - tipBox.offsetWidth - 8;
    tipBox.style.left = Math.max(8, Math.min(event.pageX + 14, right)) + "px";
    tipBox.style.top = event.pageY + 14 + "px";
  }

  async function save(name, kind) {
    const link = document.createElement("a");
    const view = views[name].view;
    link.href = kind === "svg"
      ? "data:image/svg+xml;charset=utf-8," + encodeURIComponent(await view.toSVG())
      : await view.toImageURL("png", 2);
    link.download = page.study + "-" + name + "." + kind;
    link.click();
  }
  for (const button of document.querySelectorAll(".saving button")) {
    button.addEventListener("click", () => save(button.dataset.figure, button.dataset.kind));
  }

  // --- the table -----------------------------------------------------------------------------------------------
  const table = document.getElementById("settings");
  let box = null;

  function select(found) {
    box = found && found.gap && found.damping ? found : null;
    filter();
  }

  function within(value, [one, other]) {
    return value >= Math.min(one, other) && value <= Math.max(one, other);
  }

  function filter() {
    const asked = document.getElementById("search").value.trim().toLowerCase();
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      const boxed = !box || (within(row.dataset.gap, box.gap) && within(row.dataset.damping, box.damping));
      row.hidden = !boxed || (asked !== "" && !row.textContent.toLowerCase().includes(asked));
      count += !row.hidden;
    }
    document.getElementById("shown").textContent = count + " of " + table.tBodies[0].rows.length + " rows" + (box ? ", those in the box of the regime map" : "");
  }

  function sort(head) {
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const at = head.cellIndex, number = head.classList.contains("number");
    const worth = (row) => (number ? parseFloat(row.cells[at].textContent.replace("inf", "Infinity")) : row.cells[at].textContent);
    const order = (one, other) => {
      const [left, right] = [worth(one), worth(other)];
      if (number && (isNaN(left) || isNaN(right))) return isNaN(left) - isNaN(right); // nothing goes last, either way
      const found = left < right ? -1 : left > right ? 1 : 0;
      return rising ? found : -found;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }
  if (table) {
    document.getElementById("search").addEventListener("input", filter);
    for (const head of table.tHead.rows[0].cells) head.firstElementChild.addEventListener("click", () => sort(head));
    filter();
  }

  // --- the page changes ------------------------------------------------------------------------------------------
  let width = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (innerWidth !== width) drawAll(theme());
      width = innerWidth;
    }, 150);
  });
  dark.addEventListener("change", () => drawAll(theme()));
  addEventListener("beforeprint", () => drawAll("light", "svg", PRINTED));
  addEventListener("afterprint", () => drawAll(theme()));
  drawAll(theme()).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
