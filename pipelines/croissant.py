"""``croissant.json``: what a release is, as machines read it (MLCommons Croissant 1.1), made of the manifest.

Every file is a ``FileObject`` with its hash, or, where several lie in one folder, in a ``FileSet`` whose hashes the manifest
has. Tables of rows are record sets: ``mlcroissant.Dataset("croissant.json").records(NAME)`` reads them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.licenses import known, strictest

NAME = "croissant.json"
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of the specification, which readers compare."""
_KINDS = {
    ".parquet": "application/x-parquet",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".md": "text/markdown",
    ".mp4": "video/mp4",
    ".tar": "application/x-tar",
    ".npy": "application/x-npy",
    ".txt": "text/plain",
}
_OTHER = "application/octet-stream"
_TABLES = ("data", "lineage")
"""Folders of Parquet files that hold rows: of a format, and of the walk back to the source."""
_MOST_WORDS = 2000


def croissant(manifest: Mapping[str, Any], folder: Path) -> bytes:
    """``croissant.json`` of the release in ``folder``, whose ``manifest["files"]`` are all but it and the manifest itself.

    The schema of one file of every table is read.
    """
    distribution, records = [], []
    for place, entries in _together(manifest["files"]).items():
        distribution.append(_file_set(place, entries) if len(entries) > 1 or _is_table(place) else _file(entries[0]))
        if _is_table(place):
            records.append(_record_set(place, pq.read_schema(folder / entries[0]["path"])))
    names = sorted(manifest["licenses"])
    data = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"wamloom-{manifest['build'][:12]}",
        "description": _description(manifest),
        "license": [found.url if (found := known(name)) else name for name in names] or ["unknown"],
        "usageInfo": f"The strictest of these licences is {strictest(names)}; the whole is to be used under it.",
        "version": f"{manifest['wamloom']}+{manifest['build']}",  # readers want a semantic version
        "citeAs": _citation(manifest),
        "keywords": sorted({"robotics", "world-action-model", *(group["robot"] for group in manifest["groups"])}),
        "creator": [
            {"@type": "sc:Organization", "name": name}
            for name in sorted({name for one in manifest["sources"].values() for name in one["institutions"]})
        ],
        "isLiveDataset": False,
        "distribution": distribution,
        "recordSet": records,
    }
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _description(manifest: Mapping[str, Any]) -> str:
    groups = manifest["groups"]
    return (
        f"{sum(len(group['episodes']) for group in groups)} episodes, {sum(group['num_steps'] for group in groups)} steps of "
        f"{', '.join(sorted({group['robot'] for group in groups}))}, from "
        f"{', '.join(one['title'] or name for name, one in manifest['sources'].items())}; as "
        f"{', '.join(sorted(manifest['counts']))}. manifest.json has the hash of every file, and leads back to the recordings."
    )


def _citation(manifest: Mapping[str, Any]) -> str:
    sources = "; ".join(
        f"{one['title'] or name} ({', '.join(one['institutions'])}; {', '.join(one['licenses'])})"
        for name, one in manifest["sources"].items()
    )
    return f"{sources[:_MOST_WORDS]}. Built with wamloom {manifest['wamloom']}, build {manifest['build']}."


def _together(files: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Files by (folder, suffix), in their order: format, group and one folder more."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in files:
        path = PurePosixPath(entry["path"])
        found.setdefault(("/".join(path.parent.parts[:3]), path.suffix), []).append(entry)
    return found


def _is_table(place: tuple[str, str]) -> bool:
    folder, suffix = place
    parts = folder.split("/")
    return suffix == ".parquet" and (parts[-1] == _TABLES[0] or parts[0] == _TABLES[1])


def _file(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": entry["path"],
        "name": PurePosixPath(entry["path"]).name,
        "contentUrl": entry["path"],
        "contentSize": f"{entry['num_bytes']} B",
        "encodingFormat": _KINDS.get(PurePosixPath(entry["path"]).suffix, _OTHER),
        "sha256": entry["sha256"],
    }


def _file_set(place: tuple[str, str], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    folder, suffix = place
    total = sum(entry["num_bytes"] for entry in entries)
    return {
        "@type": "cr:FileSet",
        "@id": _set_id(place),
        "name": _set_id(place).replace("/", "-"),
        "description": f"{len(entries)} files with {total} bytes; manifest.json has the hash of each.",
        "encodingFormat": _KINDS.get(suffix, _OTHER),
        "includes": f"{folder}/*{suffix}" if folder else f"*{suffix}",
    }


def _set_id(place: tuple[str, str]) -> str:
    return f"files/{place[0]}{place[1]}"


def _record_set(place: tuple[str, str], schema: pa.Schema) -> dict[str, Any]:
    name = place[0].removesuffix("/data")
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name.replace("/", "-"),
        "description": "One row for each step."
        if not name.startswith(_TABLES[1])
        else "One row for each step: the source row and the frames it was made of, and how far in time they lie before it.",
        "field": [_field(name, place, column.name, column.type) for column in schema],
    }


def _field(record_set: str, place: tuple[str, str], column: str, kind: pa.DataType) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": _set_id(place)}, "extract": {"column": column}}
    shape: list[int] = []
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size if pa.types.is_fixed_size_list(kind) else -1)
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    told: dict[str, Any] = {"dataType": _data_type(kind)}
    if pa.types.is_struct(kind):  # a picture, as ``datasets`` keeps it
        told, source["transform"] = {"dataType": "sc:ImageObject"}, {"jsonPath": "bytes"}
    if shape:
        told |= {"isArray": True, "arrayShape": ",".join(map(str, shape))}
    return {"@type": "cr:Field", "@id": f"{record_set}/{column}", "name": column, **told, "source": source}


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Integer" if pa.types.is_integer(kind) else "sc:Text"
