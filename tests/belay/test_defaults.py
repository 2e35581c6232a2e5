"""`load_defaults`: a recommended oscillator read from a file and fitted to a run."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from belay import Oscillator, load_defaults

SETTING = {"decay": 0.99, "damping": 0.5, "coupling": 0.02}
MEASURED = {"steps": 600, "batch_size": 32}


@pytest.fixture
def write(tmp_path):
    def write(**sections: Any) -> Path:
        document = {"format": "belay-defaults/1", "setting": SETTING, "transfer": MEASURED, **sections}
        path = tmp_path / "defaults.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    return write


def test_without_a_run_to_fit_to_the_oscillator_is_the_one_measured(write):
    assert load_defaults(write()) == Oscillator(0.99, 0.5, 0.02)
    assert load_defaults(str(write())) == Oscillator(0.99, 0.5, 0.02)


def test_a_run_twice_as_long_remembers_twice_as_many_steps(write):
    oscillator = load_defaults(write(), steps=1200)
    assert oscillator == Oscillator(0.99, 0.5, 0.02).rescale(0.5)
    assert oscillator.half_life == pytest.approx(2 * Oscillator(0.99, 0.5).half_life, rel=1e-9)


def test_a_batch_twice_as_large_remembers_half_as_many_steps(write):
    assert load_defaults(write(), batch_size=64) == Oscillator(0.99, 0.5, 0.02).rescale(2)


def test_steps_decide_alone_where_both_are_given(write):
    assert load_defaults(write(), steps=1200, batch_size=64) == Oscillator(0.99, 0.5, 0.02).rescale(0.5)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "600"])
@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_a_run_that_is_no_count_is_refused(write, name, value):
    with pytest.raises(ValueError, match=rf"^`{name}` must be a whole number of at least 1, got {value!r}\.$"):
        load_defaults(write(), **{name: value})


@pytest.mark.parametrize(
    "measured", [{}, {"batch_size": None}, {"batch_size": True}, {"batch_size": 0}, {"batch_size": 31.5}]
)
def test_a_file_that_does_not_say_what_it_was_measured_at_cannot_be_fitted(write, measured):
    path = write(transfer=measured)
    value = measured.get("batch_size")
    message = rf"^`batch_size` cannot be fitted: .*defaults\.yaml was measured at batch_size {value}; leave it out\.$"
    with pytest.raises(ValueError, match=message):
        load_defaults(path, batch_size=64)
    assert load_defaults(path) == Oscillator(**SETTING)


HEAVY = {"decay": 0.99, "damping": 1.0, "coupling": 0.05}  # 5 models; n of at most ln 0.8 / ln 0.99 = 22.2


@pytest.mark.parametrize(("name", "asked", "last", "beyond"), [("steps", 1, 28, 27), ("batch_size", 4096, 710, 711)])
def test_an_oscillator_that_cannot_be_fitted_that_far_is_refused_with_how_far_it_can(write, name, asked, last, beyond):
    path = write(setting=HEAVY)
    message = (
        rf"^`{name}` must be near enough to {MEASURED[name]}, at which .*defaults\.yaml was measured, for "
        rf"Oscillator\(.*\) to be fitted, got {asked}; take {last}, as far as it goes, or run a study there\.$"
    )
    with pytest.raises(ValueError, match=message):
        load_defaults(path, **{name: asked})
    assert load_defaults(path, **{name: last}).effective_mass_ratio == pytest.approx(5)
    with pytest.raises(ValueError, match=f"^`{name}` must be near enough"):
        load_defaults(path, **{name: beyond})


def test_an_average_that_alternates_is_fitted_to_whole_multiples_alone(write):
    path = write(setting={"decay": 0.9, "damping": 1.5, "coupling": 0.0})
    assert load_defaults(path, steps=200) == Oscillator(0.9, 1.5).rescale(3)
    with pytest.raises(ValueError, match=r"^`steps` must be near enough to 600, .*, got 599; take 600, as far as it"):
        load_defaults(path, steps=599)


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_a_run_beyond_all_numbers_is_refused_in_one_short_line(write, name, digits):
    with pytest.raises(ValueError, match=rf"^`{name}` must be near enough to .*, got a value of type int; ") as caught:
        load_defaults(write(), **{name: 10**digits})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", r"`path` must be a YAML defaults file, got .*defaults\.yaml: while parsing .*\."),
        ("", r"`path` must be a defaults file of format belay-defaults/1, got .*defaults\.yaml of format None\."),
        ("[1, 2]", r"`path` must be a defaults file of format belay-defaults/1, got .*defaults\.yaml of format None\."),
        (
            "format: belay-defaults/2",
            r"`path` must be a defaults file of format belay-defaults/1, got .* of format belay-defaults/2\.",
        ),
        ("format: belay-defaults/1", r"`path` must hold setting in `setting`, got .* without; export it again\."),
        (
            "format: belay-defaults/1\nsetting: {decay: 0.9}",
            r"`path` must hold damping, coupling in `setting`, got .* without; export it again\.",
        ),
        (
            "format: belay-defaults/1\nsetting: {decay: 0.9, damping: 1, coupling: 0}",
            r"`path` must hold transfer in `transfer`, got .* without; export it again\.",
        ),
        (
            "format: belay-defaults/1\nsetting: {decay: 2, damping: 1, coupling: 0}\ntransfer: {}",
            r"`path` must hold a valid setting, got .*defaults\.yaml: `decay` must be in \[0, 1\), got decay=2\.0\.",
        ),
        (
            "format: belay-defaults/1\nsetting: {decay: high, damping: 1, coupling: 0}\ntransfer: {}",
            r"`path` must hold a valid setting, got .*defaults\.yaml: `decay` must be a real number, got 'high'\.",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "defaults.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        load_defaults(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "defaults.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"^`path` must be a YAML defaults file, got .*: 'utf-8' codec .*\.$"):
        load_defaults(path)


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_defaults(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]",
        "!!python/object/apply:os.system ['touch {mark}']",
        "!!python/name:os.system",
    ],
)
def test_a_malicious_file_executes_nothing(tmp_path, tag):
    mark = tmp_path / "executed"
    path = tmp_path / "defaults.yaml"
    path.write_text(f"format: belay-defaults/1\nsetting: {tag.format(mark=mark)}\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"^`path` must be a YAML defaults file, got .*could not determine a constructor"
    ):
        load_defaults(path)
    assert not mark.exists()


HEAD = "format: belay-defaults/1\n"
GOOD = "setting: {decay: 0.9, damping: 1, coupling: 0}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "a: " + "{a: " * 20_000,
        BOMB + "format: *j",
        BOMB + HEAD + "setting: {decay: *j, damping: 1, coupling: 0}\ntransfer: {}",
        BOMB + HEAD + GOOD + "transfer: {steps: *j}",
        HEAD + GOOD + f"transfer: {{steps: {'9' * 4000}}}",
        HEAD + GOOD + f"transfer: {{steps: {'9' * 5000}}}",
        HEAD + f"setting: {{decay: {'9' * 4000}, damping: 1, coupling: 0}}\ntransfer: {{}}",
        HEAD + "setting: {decay: .nan, damping: 1, coupling: 0}\ntransfer: {}",
        HEAD + "setting: {decay: 2001-12-01, damping: 1, coupling: 0}\ntransfer: {}",
        HEAD + "setting: {decay: 2001-99-99, damping: 1, coupling: 0}\ntransfer: {}",
        HEAD + "setting: {decay: true, damping: 1, coupling: 0}\ntransfer: {}",
        HEAD + "setting: [decay, damping, coupling]\ntransfer: {}",
        HEAD + GOOD + 'transfer: {steps: "\\e[31m"}',
        HEAD + 'setting: {decay: "\\e[31m\\0", damping: 1, coupling: 0}\ntransfer: {}',
        'format: "\\e[31m' + "x" * 10_000 + '"',
        "format: \x1b[31m",
        "? [a]\n: 1",
        HEAD + "setting: &s {decay: *s, damping: 1, coupling: 0}\ntransfer: {}",
    ],
)
def test_a_hostile_file_is_refused_in_one_short_harmless_line(tmp_path, text):
    path = tmp_path / "defaults.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^`(path|steps)` ") as caught:
        load_defaults(path, steps=10)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500 + len(str(path))


def test_the_nearest_count_that_can_be_fitted_is_named_where_others_on_the_way_cannot(tmp_path):
    """Above damping 1 an average exists at some multiples of its length only, and not between."""
    file = tmp_path / "defaults.yaml"
    file.write_text(
        "format: belay-defaults/1\nsetting: {decay: 0.99, damping: 1.5, coupling: 0}\ntransfer: {steps: 300}\n"
    )
    with pytest.raises(ValueError, match="got 7; take 10, as far as it goes"):
        load_defaults(file, steps=7)
    assert load_defaults(file, steps=10).damping == pytest.approx(1)
