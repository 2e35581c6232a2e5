"""`belay-study best --from`: what is printed of a table, and which options go together."""

from __future__ import annotations

import json

import pytest
from studies import CommandLine

ROWS = "".join(
    f"{lr},{seed},{0.9 - lr / 10 + seed / 100 + lr * seed % 3 / 1000}\n" for lr in (1, 2) for seed in range(8)
)
ASKED = ("--from", "t.csv", "--metric", "acc", "--mode", "max")
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def best(belay_study: CommandLine, tmp_path):
    """Calls ``belay-study best`` beside a table."""
    (tmp_path / "t.csv").write_text(f"lr,seed,acc\n{ROWS}")
    return lambda *arguments: belay_study("best", *arguments)


def test_it_prints_the_answer_the_ranking_and_the_best_by_parameter_in_every_form(best, tmp_path):
    text = best(*ASKED)
    assert (text.code, text.err) == (0, "")
    assert text.out.startswith("table     t.csv: 2 settings x 8 seeds\nbest      lr 1\nverdict   better than 1 other ")
    data = best(*ASKED, "--format", "json")
    assert (json.loads(data.out)["setting"], json.loads(data.out)["settled"]) == ({"lr": 1}, True)
    assert "\nregime: null\n" in best(*ASKED, "--format", "yaml").out
    assert [row["lr"] for row in json.loads(best(*ASKED, "--top", 2, "--format", "json").out)] == [1, 2]
    assert [row["settings"] for row in json.loads(best(*ASKED, "--by", "lr", "--format", "json").out)] == [1, 1]
    assert best(*ASKED, "--format", "json") == data
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(("arguments", "said"), [
    ((), "`best` must have either a STUDY or `--from FILE`, got neither; name one of them."),
    (("small", *ASKED), "`best` must have either a STUDY or `--from FILE`, got small and t.csv; name one of them."),
    (ASKED[:4], "`--mode` must come with `--from`, got none; add it."),
    (("--from", "t.csv", "--mode", "max"), "`--metric` must come with `--from`, got none; add it."),
    (("small", "--metric", "acc"), "`--metric` must come without a study, with `--from`, got acc; leave it out."),
    (("small", "--mode", "max"), "`--mode` must come without a study, with `--from`, got max; leave it out."),
    ((*ASKED, "--tracking", "sqlite:///a.db"), "`--tracking` must come with a study, got t.csv; leave it out."),
    ((*ASKED, "--address", NOBODY), f"`--from` must come without a cluster, got the address {NOBODY}; leave out "
                                    "`--address`, and unset BELAY_ADDRESS."),
    ((*ASKED, "--by", "lr2"), "`--by` must be one of lr, got 'lr2'."),
    (("--from", "x.csv", *ASKED[2:]), "`--from` must be a readable file, got x.csv: No such file or directory."),
    ((*ASKED[:2], "--metric", "loss", *ASKED[4:]), "`--metric` must be one of the table's columns ['lr', 'acc'], got "
                                                   "'loss'; change it."),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_in_one_line(best, arguments, said):
    refused = best(*arguments)
    assert (refused.code, refused.out, refused.err) == (2, "", f"belay-study: {said}\n")


def test_a_table_in_which_all_diverged_is_failed_work(best, tmp_path):
    (tmp_path / "t.csv").write_text("lr,seed,acc\n1,0,nan\n2,0,\n")
    failed = best(*ASKED)
    assert (failed.code, failed.out, failed.err.count("\n")) == (1, "", 1)
    assert "(2 diverged, 0 failed)" in failed.err
