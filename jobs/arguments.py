"""What may stand behind an option of the command line; argparse tells the user what a refusal says."""

import argparse
import errno
from collections.abc import Sequence
from pathlib import Path

from jobs.options import BuildOptions, TextsOptions, read_recipe
from pipelines import prompts, registry
from schemas.errors import UsageError
from schemas.recipes import BuildRecipe, EncodeRecipe
from schemas.text_recipe import TextRecipe


def count(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def index(text: str) -> int:
    """A whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def place(text: str) -> str:
    """A path as typed; what no file system takes, and what would silently mean another place, is refused."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")  # an unset variable must not mean the working folder
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path")
    if "://" in text:
        raise argparse.ArgumentTypeError("this is a URL; name a local or mounted folder")
    try:
        Path(text).stat()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise argparse.ArgumentTypeError(f"{text[:80]!r}: {error.strerror}") from error
    return text


def location(text: str) -> str:
    """Where recordings lie: a path as typed, or a URL."""
    return text if "://" in text else place(text)


def new_place(text: str) -> str:
    """A path that something can be written to: what lies above it is a folder, as far as it is there."""
    above = Path(place(text)).absolute().parent
    while not above.exists() and not above.is_symlink():
        above = above.parent
    if not above.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be made: {str(above)!r} is not a folder")
    return text


def new_file(text: str) -> str:
    """A path that a file can be written to."""
    if Path(new_place(text)).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file")
    return text


def page_or_json(text: str) -> str:
    """A path that a file can be written to, whose end says what will be in it."""
    if Path(new_file(text)).suffix not in (".html", ".json"):
        raise argparse.ArgumentTypeError(f"{text!r} ends in neither .html nor .json, which say what to write")
    return text


def add_texts(parser: argparse.ArgumentParser) -> None:
    """What ``wamloom texts`` takes besides what other verbs take."""
    known = ", ".join(registry.names("text_encoders"))
    parser.add_argument("--encoder", metavar="NAME", help=f"{known} (default: the recipe's, hashed)")
    parser.add_argument(
        "--weights",
        type=place,
        metavar="PATH",
        help="folder with the encoder's weights, or their id on the Hugging Face hub",
    )
    parser.add_argument(
        "--template",
        metavar="NAME",
        help=f"{', '.join(prompts.TEMPLATES)}, or a sentence with {{instruction}} in it (default: the recipe's, plain)",
    )
    parser.add_argument("--where", default="", metavar="EXPR", help="only episodes for which this SQL filter holds")


def texts_options(args: argparse.Namespace) -> TextsOptions:
    """What ``wamloom texts`` was given. Raises RecipeError and UsageError."""
    flags = {"encoder": args.encoder, "weights": args.weights, "template": args.template}
    recipe = read_recipe(TextRecipe, args.recipe, args.set, flags)
    return TextsOptions(args.lake, recipe, args.where, args.dry_run, args.executor)


def add_build(parser: argparse.ArgumentParser) -> None:
    """What ``wamloom build`` takes besides what other verbs take."""
    parser.add_argument("--out", required=True, type=new_place, metavar="RELEASE", help="folder of the release")
    formats = ", ".join(registry.names("formats"))
    parser.add_argument("--format", nargs="+", action="extend", metavar="NAME", help=f"one or more of: {formats}")
    parser.add_argument("--where", metavar="EXPR", help="only episodes for which this SQL filter holds")
    parser.add_argument(
        "--encode",
        nargs="*",
        action="extend",
        metavar="RECIPE|KEY=VALUE",
        help="make the latents that the lake lacks, from the same decode as the pictures, and keep them in the lake: by an "
        "encode recipe, by single keys of one, or both; what these leave out of encoder, rate, frame_stride and views is as the "
        "release needs it",
    )
    parser.add_argument("--weights", type=place, metavar="PATH", help="folder or hub id of the weights, for --encode")


def build_options(args: argparse.Namespace) -> BuildOptions:
    """What ``wamloom build`` was given. Raises RecipeError and UsageError."""
    recipe = read_recipe(BuildRecipe, args.recipe, args.set, {"formats": args.format, "where": args.where})
    encode = None
    if args.encode is not None:
        encode = _encode_recipe(args.encode, args.weights)
    elif args.weights is not None:
        raise UsageError(
            "--weights are those of an encoder", hint="say with --encode that there is something to encode"
        )
    return BuildOptions(args.lake, args.out, recipe, args.dry_run, args.executor, encode)


def _encode_recipe(given: Sequence[str], weights: str | None) -> EncodeRecipe:
    paths = [one for one in given if "=" not in one or Path(one).is_file()]
    if len(paths) > 1:
        raise UsageError(f"--encode takes one recipe, and got {', '.join(paths)}", hint="single keys are KEY=VALUE")
    if paths and not Path(paths[0]).is_file():
        hint = "give the path of an encode recipe, or single keys as KEY=VALUE, such as clip.kind=frames"
        raise UsageError(f"--encode {paths[0]!r} is neither a file nor KEY=VALUE", hint=hint)
    settings = [one for one in given if one not in paths]
    return read_recipe(EncodeRecipe, paths[0] if paths else None, settings, {"weights": weights})
