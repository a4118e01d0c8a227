"""A signal ends a job with its code and one plain message; what had finished stays, and nothing is done twice."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.nursery import Nursery
from tests.test_kill import started
from tests.wreck import Chain, answer_of, differences, leftovers, release_content, small_recordings, until


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Chain:
    root = tmp_path_factory.mktemp("interrupt")
    chain = Chain(small_recordings(root / "recordings"), root / "whole")
    for verb in ("ingest", "encode", "build"):
        nursery.finish(chain.command(verb))
    return chain


def _interrupt(chain: Chain, verb: str, number: signal.Signals, sign: str) -> None:
    """Sends the signal once a path like ``sign`` is there, that is, at work."""
    with started(chain.command(verb)) as process:
        assert until(120, lambda: any(chain.root.glob(sign)) or process.poll() is not None)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert err.endswith("error: interrupted; what had finished is kept\nhint: the same command continues\n"), err
    assert "Traceback" not in err
    facts = json.loads(out)  # one object under --json, also here
    assert facts["reason"] == "interrupted"
    assert facts["exit_code"] == 128 + number


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_chain_is_continued_by_the_same_commands(
    number: signal.Signals, whole: Chain, nursery: Nursery, tmp_path: Path
) -> None:
    chain = Chain(whole.recordings, tmp_path / "chain")
    _interrupt(chain, "ingest", number, "lake/staging/run-*/*.arrow")
    assert leftovers(chain) == []
    answer = nursery.finish(chain.command("ingest"))
    assert (answer["listed"], answer["failed"] + answer["already_failed"]) == (8, 1)
    assert answer["already"] >= 1  # the unit that had finished
    assert answer["kept"] + answer["failed"] + answer["already"] == 8
    _interrupt(chain, "encode", number, "lake/latents.lance/data/*")
    answer = nursery.finish(chain.command("encode"))
    assert answer["cached"] >= 1
    assert answer["cached"] + answer["computed"] == answer["clips"]
    _interrupt(chain, "build", number, "release.staging/records/*.json")
    assert not chain.release.exists()
    nursery.finish(chain.command("build"))
    assert differences(chain, whole, "build") == []
    assert nursery.finish(chain.command("build"))["already"] is True


@pytest.mark.kill
def test_two_ingests_at_once_both_end_well(whole: Chain, tmp_path: Path) -> None:
    chain = Chain(whole.recordings, tmp_path / "chain")
    with started(chain.command("ingest")) as one, started(chain.command("ingest")) as other:
        answers = []
        for process in (one, other):
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            answers.append(answer_of(out))
    for answer in answers:
        assert answer["listed"] == answer["kept"] + answer["rejected"] + answer["failed"] + answer["already"] == 8
    assert sum(answer["kept"] for answer in answers) == 4  # each by one of them
    assert differences(chain, whole, "ingest") == []


@pytest.mark.kill
def test_two_ingests_of_copies_at_once_keep_both_places(whole: Chain, nursery: Nursery, tmp_path: Path) -> None:
    chain = Chain(whole.recordings, tmp_path / "chain")
    commands = []
    for name in ("arm", "arm_again"):
        command = chain.command("ingest")
        command[1] = str(chain.recordings / name)
        commands.append(command)
    with started(commands[0]) as one, started(commands[1]) as other:
        for process in (one, other):
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    answer = nursery.finish(chain.command("ingest"))
    assert answer["already"] == 6
    assert answer["kept"] == 1
    assert differences(chain, whole, "ingest") in ([], _first_copies(chain, whole))


def _first_copies(chain: Chain, whole: Chain) -> list[str]:
    """Rows that the other copy made: they differ in the place they name first, never in the places they list."""
    from tests.wreck import lake_content

    mine, theirs = lake_content(chain.lake)["episodes"], lake_content(whole.lake)["episodes"]
    assert {key: row["locations"] for key, row in mine.items()} == {
        key: row["locations"] for key, row in theirs.items()
    }
    return [f"episodes {key[:8]}" for key in sorted(mine) if mine[key] != theirs[key]]


@pytest.mark.kill
def test_of_two_builds_at_once_one_is_told_so_and_the_bytes_are_the_same(
    whole: Chain, nursery: Nursery, tmp_path: Path
) -> None:
    chain = whole.copy(tmp_path / "chain")
    for path in sorted(chain.release.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    chain.release.rmdir()
    with started(chain.command("build")) as one, started(chain.command("build")) as other:
        ends: list[tuple[subprocess.Popen[str], str, str]] = []
        for process in (one, other):
            out, err = process.communicate(timeout=300)
            ends.append((process, out, err))
    codes = sorted(process.returncode for process, _, _ in ends)
    assert codes in ([0, 0], [0, 3]), [err for _, _, err in ends]
    for process, out, err in ends:
        if process.returncode:
            assert answer_of(out)["reason"] == "busy"
            assert "another run is writing the release release" in err
    assert release_content(chain.release) == release_content(whole.release)
    assert leftovers(chain) == []
    assert nursery.finish(chain.command("build"))["already"] is True
