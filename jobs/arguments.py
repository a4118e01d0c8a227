"""What may stand behind an option of the command line; argparse tells the user what a refusal says."""

import argparse
import errno
from pathlib import Path

from jobs.options import TextsOptions, read_recipe
from pipelines import prompts, registry
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
