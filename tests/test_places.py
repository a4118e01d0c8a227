"""Recordings that lie elsewhere: the same rows as from a folder, few requests, clear errors, and no secrets anywhere."""

import base64
import json
import os
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jobs.cli import main
from jobs.execute import Executor
from pipelines import hdf5_process, places, registry, remote, stores
from pipelines.lake import Lake
from pipelines.places import below, is_remote, local_file, place
from pipelines.sources import Source
from pipelines.storage import inside
from pipelines.video import VideoTools
from schemas.errors import SourceError, UsageError
from schemas.recipes import Limits
from tests.chain import run_ingest, write_short
from tests.recorded import example, rlds_episode, write_lerobot, write_rlds
from tests.serving import Served, served

CANARY = "hunter2canary"
INDEXED = ("rlds", "lerobot_v21", "lerobot_v3")
"""Layouts whose index names every file."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No proxies, no waiting, and nothing remembered from test to test."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stores, "WAITS_S", (0.01, 0.01))
    places.forget()
    yield
    places.forget()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of two short episodes in every layout, at ``LAYOUT/ROBOT``."""
    root = tmp_path_factory.mktemp("places") / "samples"
    for layout in registry.names("layouts"):
        write_short(root / layout, layout, robot=0 if layout == "droid_raw" else 1)
    return root


def rows(lake: Path) -> list[dict[str, Any]]:
    """All that the lake says of its episodes but where they lie, by id."""
    table = Lake.open(lake).table("episodes").to_table()
    found = table.drop_columns([name for name in table.column_names if name.startswith("video_")]).to_pylist()
    for row in found:
        row["locations"] = [(one["key"], one["split"], one["dataset"], one["revision"]) for one in row["locations"]]
    return sorted(found, key=lambda row: row["episode_id"])


@pytest.fixture(scope="module")
def local_rows(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    lake = tmp_path_factory.mktemp("places") / "lake"
    run_ingest([samples], lake)
    return rows(lake)


def ingest(location: str, lake: Path, executor: Executor | None = None) -> dict[str, Any]:
    return dict(run_ingest([location], lake, executor=executor).values)  # type: ignore[list-item]


def source(name: str) -> Source:
    found: Source = registry.load("sources", name).SOURCE
    return found


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("s3://bucket/set/", "s3://bucket/set"),
        ("S3://bucket//set/./1.0.0", "s3://bucket/set/1.0.0"),
        ("memory:///set", "memory://set"),
        ("http://host:8000/sets/a/", "http://host:8000/sets/a"),
        ("hf://datasets/owner/name@v1.0/data/", "hf://datasets/owner/name@v1.0/data"),
        ("file:///data/a%20set", "/data/a set"),
        ("/data/set/", "/data/set"),
    ],
)
def test_a_place_has_one_text(location: str, text: str) -> None:
    assert str(place(location)) == str(place(text)) == text
    assert is_remote(place(location)) == ("://" in text)


@pytest.mark.parametrize(
    "location",
    [
        f"https://user:{CANARY}@host/set",
        f"https://{CANARY}@host/set",
        f"https://user:{CANARY}/x@host/set",
        f"s3://key:{CANARY}@bucket/set",
        f"https://host/set?X-Amz-Signature={CANARY}",
        f"https://host/set#{CANARY}",
        f"memory://set::s3://{CANARY}",
        f"ftp://user:{CANARY}@host/set",
        f"user:{CANARY}@s3://bucket",
    ],
)
def test_a_secret_in_a_location_is_refused_and_not_repeated(
    location: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UsageError) as caught:
        place(location)
    assert CANARY not in str(caught.value)
    for words in (["ingest", location, "--lake", str(tmp_path / "lake")], ["ingest", "x", "--lake", location]):
        assert main([*words, "--json", "-v"]) == 2
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err + caplog.text
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("location", ["s3://", "https:///set", "memory://a/../b", "gopher://host/x", "s3://b/a\nb"])
def test_what_is_no_location(location: str) -> None:
    with pytest.raises(UsageError):
        place(location)


@pytest.mark.parametrize("root", ["memory://sets/a", "s3://bucket/a", "http://127.0.0.1/a"])
def test_paths_from_data_stay_under_their_root(root: str) -> None:
    folder = place(root)
    assert str(inside(folder, "data/./b.mp4")) == f"{root}/data/b.mp4"
    for relative in ("../b", "a/../../b", "/etc/passwd", "//evil.example/b", "http://evil.example/b", "a\\b", "~/b"):
        with pytest.raises(SourceError, match="leaves its root") as caught:
            inside(folder, relative)
        assert caught.value.reason == "path_escape"
    for relative in ("%2e%2e/%2e%2e/b", "a?b", "a#b", "a b", "@evil.example"):
        assert str(inside(folder, relative)).startswith(f"{root}/")
    if root.startswith("http"):
        assert str(below(folder, "%2e%2e/a?b#c")) == f"{root}/%252e%252e/a%3Fb%23c"


# --- memory: what is remembered --------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_every_layout_ingests_from_elsewhere_as_from_a_folder(
    samples: Path, local_rows: list[dict[str, Any]], memory: Any, tmp_path: Path
) -> None:
    memory.put(str(samples), "/sets", recursive=True)
    found = ingest("memory://sets", tmp_path / "lake")
    assert found["kept"] == len(local_rows)
    assert rows(tmp_path / "lake") == local_rows
    assert ingest("memory:///sets/", tmp_path / "lake")["already"] == found["listed"]


def test_a_changed_file_is_read_anew_and_another_is_not(memory: Any, tmp_path: Path) -> None:
    write_lerobot(tmp_path / "toy", "v2.1", (4, 7), images=True)
    memory.put(str(tmp_path / "toy"), "/toy", recursive=True)
    before = {ref.key: ref.state for ref in source("lerobot").refs("memory://toy")}
    name = "/toy/data/chunk-000/episode_000001.parquet"
    memory.pipe_file(name, memory.cat_file(name))
    places.forget()
    after = {ref.key: ref.state for ref in source("lerobot").refs("memory://toy")}
    assert [key for key in before if before[key] != after[key]] == ["episode_000001"]


def test_listings_are_believed_for_a_while(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/set/a", b"1")
    root = place("memory://set")
    assert (root / "a").is_file()
    memory.pipe_file("/set/b", b"22")
    assert not (root / "b").exists()
    monkeypatch.setattr(remote, "FRESH_S", 0.0)
    places.forget()
    assert (root / "b").stat().st_size == 2
    assert sorted(path.name for path in root.rglob("*")) == ["a", "b"]
    assert [path.name for path in sorted(root.iterdir())] == ["a", "b"]
    with pytest.raises(FileNotFoundError):
        (root / "c").open("rb")
    with pytest.raises(FileNotFoundError):
        (root / "none" / "c").stat()


def test_an_open_file_reads_any_part(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(1000)
    memory.pipe_file("/set/a", data)
    monkeypatch.setattr(remote, "BLOCK_BYTES", 16)
    with place("memory://set/a").open("rb") as file:
        raw = file.raw
        for start, length in [(990, 50), (0, 3), (10, 40), (3, 700), (999, 1), (1000, 5)]:
            raw.seek(start)
            assert raw.read(length) == data[start : start + length]
        assert file.seek(-10, os.SEEK_END) == 990
        assert file.read() == data[990:]
        file.seek(0)
        assert file.read() == data
    assert place("memory://set/a").read_bytes() == data


def test_copies_of_shared_files_are_bounded_and_have_no_name(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        memory.pipe_file(f"/set/{name}", name.encode() * 100)
    monkeypatch.setattr(places, "KEPT_BYTES", 250)
    monkeypatch.setattr(places, "_copies", places._Copies())
    root = place("memory://set")
    first = local_file(root / "a")
    assert first.read_bytes() == b"a" * 100
    assert local_file(root / "a") == first
    assert local_file(root / "b").read_bytes() == b"b" * 100
    assert local_file(root / "c").read_bytes() == b"c" * 100
    assert len(places._copies._files) == 2
    assert str(local_file(root / "c").readlink()).endswith("(deleted)")
    assert local_file(Path("/etc/hostname")) == Path("/etc/hostname")


# --- a web server: ranges, requests, errors --------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "web").mkdir()
    with served(tmp_path / "web") as state:
        yield state


def test_a_web_server_needs_no_listing(samples: Path, local_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with served(samples) as web:
        for folder in indexed(samples):
            assert ingest(f"{web.url}/{folder}", tmp_path / "lake")["listed"] == 2
    named = [row for row in local_rows if row["source"] in ("rlds", "lerobot")]
    assert len(named) >= 4
    assert rows(tmp_path / "lake") == named
    assert not [one for one in web.asked if one[1].endswith("/")]


def indexed(samples: Path) -> list[str]:
    """Folders of the sets whose index names every file."""
    marks = sorted([*samples.rglob("dataset_info.json"), *samples.rglob("meta/info.json")])
    folders = [mark.parent.parent if mark.parent.name == "meta" else mark.parent for mark in marks]
    assert len(folders) == len(INDEXED)
    return [folder.relative_to(samples).as_posix() for folder in folders]


def large_shard(folder: Path, records: int = 12, payload: int = 200_000) -> Path:
    """A set of one shard whose records are padded by a feature nobody declares."""
    padding = {"steps/padding": [os.urandom(payload)]}
    episodes = [example(rlds_episode(number) | padding) for number in range(records)]
    return write_rlds(folder, {"train": [episodes]})


def test_one_record_of_a_large_shard_is_one_request(web: Served) -> None:
    root = large_shard(web.root)
    shard = next(root.glob("*.tfrecord*"))
    location = f"{web.url}/{root.relative_to(web.root)}"
    refs = source("rlds").refs(location)
    assert len(refs) == 12
    scan = web.gets("tfrecord")
    assert len(scan) == 12
    assert web.num_bytes < 20_000  # headers and the two JSON files
    web.clear()
    with VideoTools(Limits()) as video:
        source("rlds").read(refs[7], video, Limits())
        assert len(web.asked) == 1
        assert 200_000 < web.num_bytes < shard.stat().st_size / 6
        web.clear()
        source("rlds").read(refs[8], video, Limits())
        assert len(web.asked) == 1


def test_small_records_are_found_many_at_once(web: Served) -> None:
    root = write_rlds(web.root, {"train": [[example(rlds_episode(number)) for number in range(40)]]})
    assert len(source("rlds").refs(f"{web.url}/{root.relative_to(web.root)}")) == 40
    assert len(web.gets("tfrecord")) <= 3


def test_damage_is_told_from_elsewhere_as_from_a_folder(web: Served) -> None:
    root = large_shard(web.root, 4)
    shard = next(root.glob("*.tfrecord*"))
    data = bytearray(shard.read_bytes())
    data[300_000] ^= 1
    shard.write_bytes(data[:-1000])
    location = f"{web.url}/{root.relative_to(web.root)}"

    def told(where: str) -> list[tuple[str, str]]:
        found = []
        with VideoTools(Limits()) as video:
            for ref in source("rlds").refs(where):
                try:
                    source("rlds").read(ref, video, Limits())
                    found.append((ref.key, ""))
                except SourceError as error:
                    found.append((ref.key, error.reason))
        return found

    assert told(location) == told(str(root))
    assert {reason for _, reason in told(location)} == {"", "corrupt_record", "truncated"}


def test_a_shared_video_and_its_rows_are_fetched_once(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_copies", places._Copies())
    with served(samples / "lerobot_v3") as web, VideoTools(Limits()) as video:
        refs = source("lerobot").refs(f"{web.url}/sample_gantry")
        web.clear()
        for ref in refs:
            source("lerobot").read(ref, video, Limits())
        files = Counter(path for _, path, _ in web.gets())
        videos = [path for path in files if path.endswith(".mp4")]
        assert videos
        assert all(files[path] == 1 for path in videos)
        assert all(count <= 2 for path, count in files.items() if "/data/" in path)


def test_each_file_of_a_web_server_is_asked_for_once(web: Served) -> None:
    write_lerobot(web.root / "toy", "v2.1", (4,) * 30, images=True)
    assert len(source("lerobot").refs(f"{web.url}/toy")) == 30
    asked = Counter(path for method, path, _ in web.asked if method == "HEAD")
    assert len([path for path in asked if path.endswith(".parquet")]) == 30
    assert max(asked.values()) == 1


def reason_of(location: str) -> str:
    """Reason with which a location is refused; its message names the place and has a hint."""
    from pipelines.ingest import list_sets

    _, errors = list_sets([location])
    assert errors
    assert errors[0].where.startswith(location.rstrip("/"))
    assert errors[0].hint
    return errors[0].reason


def test_what_a_server_refuses_has_a_reason(web: Served) -> None:
    location = f"{web.url}/{large_shard(web.root, 2).relative_to(web.root)}"
    assert reason_of(f"{web.url}/nothing") == "not_found"
    web.refused = {"/": 401}
    assert reason_of(location) == "no_rights"
    web.refused = {"/": 403}
    assert reason_of(location) == "no_rights"
    web.refused = {"/": 500}
    assert reason_of(location) == "unreachable"
    web.refused = {}
    web.ranges = False
    assert reason_of(location) == "no_ranges"
    web.ranges = True
    web.failures = 2
    assert len(source("rlds").refs(location)) == 2  # it is asked again
    web.torn = 2
    assert len(places.read_range(place(location) / "features.json", 0, 100)) == 100
    assert web.torn == 0


def test_credentials_of_a_web_server_come_from_netrc(
    web: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"{web.url}/{large_shard(web.root, 2).relative_to(web.root)}"
    web.needs = "Basic " + base64.b64encode(f"user:{CANARY}".encode()).decode()
    assert reason_of(location) == "no_rights"
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {CANARY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delitem(remote._systems, "http")
    fsspec.get_filesystem_class("http").clear_instance_cache()
    refs = source("rlds").refs(location)
    assert len(refs) == 2
    assert CANARY not in repr(refs)


def test_nobody_at_home() -> None:
    with served(Path("/nowhere")) as web:
        location = f"{web.url}/set"
    assert reason_of(location) == "unreachable"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remote._systems, "gs", None)
    monkeypatch.delitem(remote._systems, "gs")
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(SourceError, match="not installed") as caught:
        place("gs://bucket/set")
    assert (caught.value.reason, caught.value.hint) == ("missing_driver", "pip install 'wamloom[remote]'")


def test_the_hub_of_hugging_face(
    samples: Path, local_rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfFileSystem

    with served(samples) as web:
        hub = remote.Remote(HfFileSystem(endpoint=web.url, token=False), "hf")
        monkeypatch.setitem(remote._systems, "hf", hub)
        for layout in INDEXED:
            ingest(f"hf://datasets/owner/name/{layout}", tmp_path / "lake")
        assert rows(tmp_path / "lake") == [row for row in local_rows if row["source"] in ("rlds", "lerobot")]
        assert reason_of("hf://datasets/owner/name/none") == "missing_file"
        shard = next(path for path in samples.rglob("*.tfrecord*"))
        part = place(f"hf://datasets/owner/name@main/{shard.relative_to(samples)}")
        web.clear()
        assert places.read_range(part, 5, 25) == shard.read_bytes()[5:25]
        assert web.num_bytes == 20
        web.refused = {"/": 403}
        places.forget()
        assert reason_of("hf://datasets/owner/name") == "no_rights"


@pytest.mark.ray
def test_workers_of_a_cluster_read_from_elsewhere(
    samples: Path, local_rows: list[dict[str, Any]], ray_executor: Executor, tmp_path: Path
) -> None:
    with served(samples) as web:
        location = f"{web.url}/lerobot_v21/sample_gantry"
        ingest(location, tmp_path / "lake", ray_executor)
        ids = {row["episode_id"] for row in rows(tmp_path / "lake")}
    assert ids < {row["episode_id"] for row in local_rows}
    assert len(ids) == 2


# --- S3 --------------------------------------------------------------------------------------------------------------


@dataclass
class Counted:
    """What an S3 server was asked."""

    url: str
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and query."""
    num_bytes: int = 0


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """A server of moto with an empty bucket ``recordings``, found by the environment."""
    import s3fs
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = DomainDispatcherApplication(create_backend_app)
    state = Counted("")

    def counted(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        state.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]))
        body = b"".join(app(environ, start))
        state.num_bytes += len(body)
        return [body]

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": state.url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(remote._systems, "s3", raising=False)
    monkeypatch.setattr(hdf5_process, "_READER", hdf5_process.Reader())  # a child has the environment of its start
    s3fs.S3FileSystem.clear_instance_cache()
    urllib.request.urlopen(urllib.request.Request(f"{state.url}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem().mkdir("recordings")
    state.asked.clear()
    yield state
    server.shutdown()
    remote._systems.pop("s3", None)
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3_ingests_as_a_folder_does(
    samples: Path,
    local_rows: list[dict[str, Any]],
    s3: Counted,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    import s3fs

    s3fs.S3FileSystem().put(f"{samples}/", "recordings/sets/", recursive=True)
    s3.asked.clear()
    lake = tmp_path / "lake"
    words = ["ingest", "s3://recordings/sets/", "--lake", str(lake), "--executor", "inline", "-v", "--json"]
    assert main(words) == 0
    assert rows(lake) == local_rows
    assert not [one for one in s3.asked if one[0] == "HEAD"]  # listings say all that a HEAD would
    said = capsys.readouterr()
    assert json.loads(said.out)["kept"] == len(local_rows)
    assert CANARY not in said.out + said.err + caplog.text
    for path in lake.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes()
    locations = [one["location"] for row in Lake.open(lake).rows("episodes", ["locations"]) for one in row["locations"]]
    assert {location.split("/")[4] for location in locations} == set(registry.names("layouts"))


def test_s3_listings_save_requests_and_ranges_save_bytes(s3: Counted, tmp_path: Path) -> None:
    import s3fs

    write_lerobot(tmp_path / "toy", "v2.1", (4,) * 60, images=True)
    root = large_shard(tmp_path / "large")
    s3fs.S3FileSystem().put(f"{tmp_path}/toy/", "recordings/toy/", recursive=True)
    s3fs.S3FileSystem().put(f"{root}/", "recordings/large/", recursive=True)
    s3.asked.clear()
    assert len(source("lerobot").refs("s3://recordings/toy")) == 60
    assert len(s3.asked) < 15
    refs = source("rlds").refs("s3://recordings/large")
    s3.asked.clear()
    s3.num_bytes = 0
    with VideoTools(Limits()) as video:
        source("rlds").read(refs[7], video, Limits())
    assert len(s3.asked) == 1
    assert 200_000 < s3.num_bytes < 400_000


def test_s3_says_what_is_wrong(s3: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    assert reason_of("s3://recordings/none") == "missing_file"
    assert reason_of("s3://nobucket/none") == "missing_file"
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    remote._systems.pop("s3")
    s3fs.S3FileSystem.clear_instance_cache()
    assert reason_of("s3://recordings/none") == "no_rights"
