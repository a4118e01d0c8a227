"""The stock webdataset reader is the judge, in its secure mode."""

import dataclasses
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings

from pipelines.barcode import Mark, read_mark
from pipelines.formats import webdataset as wds_format
from schemas.errors import ReleaseError
from schemas.recipes import BuildRecipe
from tests.fake_build import FakeBuild, builds, frame_number, make_build, make_frames, write_build, write_unit


def read_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    monkeypatch.setenv("WDS_SECURE", "1")
    import webdataset

    shards = [str(path) for path in sorted(folder.glob("shard-*.tar"))]
    return list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))


def check_against(build: FakeBuild, samples: list[dict], horizon: int) -> None:
    expected = [(episode, n) for episode in build.episodes for n in range(episode.plan.num_samples)]
    assert len(samples) == len(expected)
    for index, (sample, (episode, number)) in enumerate(zip(samples, expected, strict=True)):
        step = int(episode.sample_steps[number])
        steps = np.minimum(step + np.arange(horizon), episode.plan.num_steps - 1)
        inside = step + np.arange(horizon) < episode.plan.num_steps
        assert sample["__key__"] == f"{episode.plan.episode_id[:16]}-{step:06d}"
        np.testing.assert_array_equal(sample["action.npy"], episode.action[steps])
        np.testing.assert_array_equal(sample["mask.npy"], inside & episode.valid[steps])
        np.testing.assert_array_equal(sample["proprio.npy"], episode.proprio[steps])
        assert sample["action.npy"].dtype == sample["proprio.npy"].dtype == np.float32
        assert sample["txt"] == episode.plan.instruction
        if episode.tokens is not None:
            np.testing.assert_array_equal(sample["tokens.npy"], episode.tokens[number])
        lineage = sample["json"]
        assert (lineage["sample"], lineage["step"]) == (index, step)
        assert lineage["episode_id"] == episode.plan.episode_id
        assert (lineage["location"], lineage["source_key"]) == (episode.location, episode.source_key)
        assert lineage["times_ns"] == episode.times_ns[steps].tolist()
        assert lineage["source_rows"] == episode.source_rows[steps].tolist()
        for slot, _, _ in build.group.views:
            assert lineage["frame_ids"][slot] == episode.frame_ids[slot][steps].tolist()
            marks = [read_mark(sample[f"{slot}.{i:03d}.jpg"]) for i in range(horizon)]
            assert marks == [Mark(frame_number(slot, s), episode.plan.episode_index) for s in steps.tolist()]


@pytest.mark.parametrize("stride", [None, 2])
def test_windows_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int | None) -> None:
    build = make_build(recipe=BuildRecipe(horizon=4, sample_stride=stride))
    write_build(wds_format, build, tmp_path)
    check_against(build, read_back(tmp_path, monkeypatch), 4)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(build=builds())
def test_whatever_is_written_is_read(
    build: FakeBuild, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("release")
    write_build(wds_format, build, folder)
    check_against(build, read_back(folder, monkeypatch), build.recipe.horizon)


def test_pixels_survive_nearly_unchanged(tmp_path: Path) -> None:
    build = make_build((5,))
    write_build(wds_format, build, tmp_path)
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith("primary.002.jpg")]
        data = tar.extractfile(names[0]).read()
    shown = simplejpeg.decode_jpeg(data).astype(int)
    error = np.abs(shown - make_frames(build, build.episodes[0], "primary")[2])
    assert error.mean() < 1.5
    assert simplejpeg.decode_jpeg_header(data)[3] == "444"


def test_latents_come_with_the_steps_they_cover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = make_build((13,), views=(), latent_slots=("primary",), recipe=BuildRecipe(horizon=4, content="latents"))
    write_build(wds_format, build, tmp_path)
    clip = build.episodes[0].latents["primary"][0]
    samples = read_back(tmp_path, monkeypatch)
    spans = [[span["steps"] for span in sample["json"]["latents"]["primary"]] for sample in samples]
    # 13 frames are 1 + 3 * 4: latent frames span steps 0, 1-4, 5-8, 9-12
    assert spans == [[[0, 1], [1, 5]], [[1, 5], [5, 9]], [[5, 9], [9, 13]], [[9, 13]]]
    chosen = [[span["latent"] for span in sample["json"]["latents"]["primary"]] for sample in samples]
    for sample, latents in zip(samples, chosen, strict=True):
        np.testing.assert_array_equal(sample["primary.latent.npy"], clip.values[latents])
    assert samples[1]["json"]["latents"]["primary"][0]["frame_ids"] == [1, 2, 3, 4]


def test_a_window_behind_the_last_clip_has_an_empty_latent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = make_build((4,), views=(), latent_slots=("primary",), recipe=BuildRecipe(horizon=2, content="latents"))
    write_build(wds_format, build, tmp_path)
    first, second = read_back(tmp_path, monkeypatch)
    assert first["primary.latent.npy"].shape == (1, 2, 3, 4)
    assert second["primary.latent.npy"].shape == (0, 2, 3, 4)
    assert second["json"]["latents"]["primary"] == []


def test_members_are_plain_adjacent_and_without_a_trace_of_the_machine(tmp_path: Path) -> None:
    build = make_build()
    write_build(wds_format, build, tmp_path)
    for path in tmp_path.glob("*.tar"):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isfile()) for m in members}
        assert facts == {(0, 0, 0, "", "", 0o644, True)}
        keys = [m.name.split(".")[0] for m in members]
        changes = sum(a != b for a, b in itertools.pairwise(keys))
        assert changes + 1 == len(set(keys))
        assert path.read_bytes()[257:265] == b"ustar\x0000"


def test_index_counts_the_samples_of_each_shard(tmp_path: Path) -> None:
    build = make_build()
    write_build(wds_format, build, tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    per_unit = [sum(episode.num_samples for episode in unit.episodes) for unit in build.units]
    assert [shard["samples"] for shard in index["shards"]] == per_unit
    assert index["num_samples"] == sum(per_unit)


def test_an_id_that_is_no_key_is_refused(tmp_path: Path) -> None:
    build = make_build((3,), views=())
    plan = build.units[0].episodes[0]
    bad = type(plan)("ep.1", *(getattr(plan, name) for name in plan.__slots__[1:]))
    episode = type(build.episodes[0])(bad, *(getattr(build.episodes[0], n) for n in build.episodes[0].__slots__[1:]))
    unit = dataclasses.replace(build.units[0], episodes=(bad,))
    writer = wds_format.FORMAT.open_unit(unit, build.recipe, tmp_path)
    writer.begin(episode)
    with pytest.raises(ReleaseError, match="is not a key"):
        writer.end()


def test_a_shard_that_lacks_samples_is_not_finished(tmp_path: Path) -> None:
    build = make_build((3,), views=())
    write_unit(wds_format, build, build.units[0], tmp_path)
    with pytest.raises(ReleaseError, match="planned were 1"):
        wds_format.FORMAT.finish(build.group, build.recipe, [(build.units[0], {"samples": 0})], tmp_path)
