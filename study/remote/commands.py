"""What the commands do where `--address` or BELAY_ADDRESS names a cluster.

What imports torch is imported only by what needs a config: a question to a cluster should not wait for it.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.design.places import without_password
from study.errors import BadInput, FailedWork, Interrupted, printable
from study.remote.frame import Answer, Reader
from study.remote.order import PLACES, STORED, STORED_CONFIG, Order, python_version
from study.remote.package import CONFIG, code_folder, pack

if TYPE_CHECKING:
    from study.design.config import StudyConfig
    from study.remote.client import Cluster, StudyJob

NAMES = {"form": "--format"}  # options that are not called as their values are
ARGUMENTS = ("study", "kind", "setting")
OWN = (*ARGUMENTS, "address", "output")  # what is no option of the command there
RECENT = 5  # lines of a running job's log that are shown to who comes later
SERVER = re.compile(r"(?!sqlite|file:)[\w+.-]+://.*|\$\{.*", re.DOTALL)  # what a cluster can reach, or knows alone


def elsewhere(address: str, command: str, given: Mapping[str, Any]) -> int:
    """Runs a command of ``belay-study`` on a cluster.

    Args:
        address: Of the cluster's dashboard.
        command: Its name.
        given: Its arguments and options by name.

    Returns:
        Its exit code; what it printed has been printed here.

    Raises:
        BadInput: The cluster cannot be asked for this.
        FailedWork: The cluster did not do its part.
        Interrupted: Ctrl-C; a study's job goes on.
    """
    _check_options(given)
    if command == "run":
        from study.design.config import load_config

        config = load_config(given["config"], given["override"])
        _check_place("storage.url", config.storage.url)
        _check_place("tracking.uri", config.tracking.uri)
        return _run(_open(address), config, [given["config"].absolute().parent, Path.cwd()], given)
    cluster = _open(address)
    own: dict[str, Callable[[Cluster, Mapping[str, Any]], int]] = {
        "resume": _go_on,
        "extend": _go_on,
        "stop": _stop,
        "logs": _logs,
        "delete": _delete,
    }
    return own[command](cluster, given) if command in own else _read(cluster, command, given)


def _open(address: str) -> Cluster:
    try:
        from study.remote.client import Cluster
    except ImportError as error:
        raise BadInput(
            f"`--address` must have Ray's client for jobs, got {error}; `pip install -e '.[cluster]'`."
        ) from error
    return Cluster(address)


def _check_options(given: Mapping[str, Any]) -> None:
    """Raises BadInput if an option makes no sense on another machine."""
    for name, option in (("inline", "--inline"), ("debug", "--debug"), ("table", "--from")):
        if given.get(name):
            raise BadInput(
                f"`{option}` must come without a cluster, got the address {without_password(given['address'])}; leave "
                "out `--address`, and unset BELAY_ADDRESS."
            )
    for name in PLACES:
        _check_place(f"--{name}", given.get(name))


def _check_place(option: str, url: str | None) -> None:
    """Raises BadInput if a URL leads a cluster to a file of this machine's, or holds a password."""
    if url is None:
        return
    if not SERVER.fullmatch(url):
        raise BadInput(
            f"`{option}` must be a server's URL where a cluster runs the study, got {without_password(url)}; leave it "
            "out if the cluster's environment names one."
        )
    if without_password(url) != url:
        raise BadInput(
            f"`{option}` must hold no password where a cluster runs the study, got {without_password(url)}; name an "
            "environment variable of the cluster's in its place, as in ${PGPASSWORD}."
        )


def _run(cluster: Cluster, config: StudyConfig, places: Sequence[Path], given: Mapping[str, Any]) -> int:
    """Starts a study's job, or finds it running, and shows it to its end."""
    from study.design.tasks import check_names, imported

    chosen = {"storage": given["storage"] or config.storage.url, "tracking": given["tracking"] or config.tracking.uri}
    options = [f"--{name}={given[name]}" for name in PLACES if given[name] is not None]
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "study.zip"
        folder = code_folder(config.task.name, places)
        if folder is not None:
            check_names(folder, imported())  # a job's Python looks there first
        taken = pack(package, config, folder)
        job, attached = _start(cluster, config, _order(cluster, ["run", *options, CONFIG], chosen), package)
    if taken and not attached:
        _show(f"{config.name} {taken}")
    if given["detach"]:
        _show(_farewell(cluster, job.name))
        return 0
    _show(f"{job.name} runs {'already ' if attached else ''}at {cluster.address} as {job.id}, Ctrl-C leaves it running")
    return _watch(cluster, job, attached)


def _start(cluster: Cluster, config: StudyConfig, order: Order, package: Path) -> tuple[StudyJob, bool]:
    """The job that runs a study, and whether it ran already: there is one at most, whoever asks for it."""
    from study.remote.client import StudyJob

    while True:
        jobs = cluster.jobs(config.name)
        for job in [job for job in jobs if job.running]:
            if job.question != config.question:
                raise BadInput(
                    f"the study's name must be new or its config the same, got {config.name!r} with another config "
                    f"running at {cluster.address} as {job.id}; change `name`, e.g. to {config.name}-2."
                )
            return job, True
        attempt = 1 + max((job.attempt for job in jobs if job.question == config.question), default=0)
        job = StudyJob(config.name, config.question, attempt, True)
        if cluster.submit(job.id, order, package):
            return job, False


def _watch(cluster: Cluster, job: StudyJob, attached: bool) -> int:
    """Shows a study's job to its end; it goes on without who watches."""
    try:
        seen = cluster.log(job.id) if attached else ""
        quiet = len(seen) - sum(map(len, seen.splitlines(keepends=True)[-RECENT:]))
        answer = cluster.answer(job.id, Reader(_show, quiet))
    except KeyboardInterrupt as stop:
        raise Interrupted(_farewell(cluster, job.name)) from stop
    _print(answer)
    return answer.code


def _farewell(cluster: Cluster, name: str) -> str:
    where = f"{name} --address {cluster.address}"
    return (
        f"{name} goes on at {cluster.address}; `belay-study logs {where} --follow` shows it again, `belay-study stop "
        f"{where}` ends it."
    )


def _go_on(cluster: Cluster, given: Mapping[str, Any]) -> int:
    """Resumes a study, or extends it where there is something to set."""
    from study.design.config import extended, parse_config

    storage = given["storage"]
    order = _order(cluster, [STORED_CONFIG, given["study"], *([storage] if storage else [])], {"storage": storage})
    asked = _job(cluster, order)
    if asked.code:
        return asked.code
    config = extended(parse_config(json.loads(asked.out)), given.get("override", ()))
    return _run(cluster, config, [Path.cwd()], given)


def _stop(cluster: Cluster, given: Mapping[str, Any]) -> int:
    name = given["study"]
    jobs = [job for job in cluster.jobs(name) if job.running]
    if not jobs:
        raise BadInput(
            f"a job of the study must be running at {cluster.address}, got none of {name!r}; `belay-study list "
            f"--address {cluster.address}` shows what is on record."
        )
    for job in jobs:
        cluster.stop(job.id)
        reader = Reader(lambda line: None)
        cluster.follow(job.id, reader)
        _show(
            reader.last
            if reader.answer
            else f"{name} was stopped before it could answer; what was done is kept, and `belay-study run CONFIG "
            f"--address {cluster.address}` does the rest."
        )
    return 0


def _logs(cluster: Cluster, given: Mapping[str, Any]) -> int:
    if given["setting"] is not None:
        return _read(cluster, "logs", given)
    if given["storage"] is not None:
        raise BadInput(
            f"`--storage` must come with a SETTING, got {without_password(given['storage'])}; leave it out, as a job's "
            "log is kept by Ray."
        )
    jobs = cluster.jobs(given["study"])
    if not jobs:
        raise BadInput(
            f"a job of the study must be known at {cluster.address}, got none of {given['study']!r}; `belay-study run "
            f"CONFIG --address {cluster.address}` starts one."
        )
    job = jobs[-1]
    reader = Reader(lambda line: print(printable(line), flush=True), whole=True)  # noqa: T201
    if given["follow"]:
        try:
            cluster.follow(job.id, reader)
        except KeyboardInterrupt as stop:
            raise Interrupted(_farewell(cluster, job.name)) from stop
    else:
        reader.feed(cluster.log(job.id))
    if reader.answer is not None:
        _print(reader.answer)
    return 0


def _delete(cluster: Cluster, given: Mapping[str, Any]) -> int:
    """Has a study deleted there; asks here first."""
    if not given["yes"]:
        from study.show import check_agreed

        chosen = {name: given[name] for name in PLACES}
        arguments = [STORED, given["study"], *(given[name] or "" for name in PLACES)]
        asked = _job(cluster, _order(cluster, arguments, chosen))
        if asked.code:
            return asked.code
        check_agreed(f"at {cluster.address} {asked.out.decode()}")
    return _read(cluster, "delete", {**given, "yes": True})


def _read(cluster: Cluster, command: str, given: Mapping[str, Any]) -> int:
    """Has a command done there that answers at once."""
    use = command
    if command == "export":
        from study.show import export_use

        use = export_use(given["form"], given["output"])
    if "kind" in given:
        from study.show import picture_form

        given = {**given, "form": picture_form(given["output"], given["form"])}
    arguments = [str(given[name]) for name in ARGUMENTS if given.get(name) is not None]
    names = ["--", *arguments] if arguments else []
    chosen = {name: given[name] for name in PLACES if name in given}
    answer = _job(cluster, _order(cluster, [command, *options_of(given), *names], chosen))
    if answer.code == 0 and given.get("output") is not None:
        from study.show import deliver

        deliver(answer.out, given["output"], use)
    else:
        _print(answer)
    return answer.code


def options_of(given: Mapping[str, Any]) -> Iterator[str]:
    """The options of a command, as it is called with them there."""
    for name, value in given.items():
        if name not in OWN and value is not None and value is not False:
            option = NAMES.get(name, f"--{name}")
            yield option if value is True else f"{option}={value}"


def _order(cluster: Cluster, arguments: Sequence[str], chosen: Mapping[str, str | None]) -> Order:
    """An order, given the places that the command uses with the URLs that are chosen for them."""
    needs = [PLACES[name] for name, url in chosen.items() if url is None]
    return Order(arguments, needs, cluster.address, python_version())


def _job(cluster: Cluster, order: Order) -> Answer:
    """What a job comes to that leaves no trace but its answer."""
    submission_id = f"belay-ask-{uuid.uuid4().hex}"
    if not cluster.submit(submission_id, order):
        raise FailedWork(f"a job's id must be new, got {submission_id}; try again.")
    answer = cluster.answer(submission_id, Reader(_show))
    cluster.forget(submission_id)
    return answer


def _print(answer: Answer) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(answer.out)
    sys.stdout.flush()


def _show(line: str) -> None:
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()
