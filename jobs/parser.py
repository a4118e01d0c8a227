"""What the command line takes: every verb with its arguments, and the options that it makes of them."""

import argparse
import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn

from jobs import arguments, options
from jobs.options import Answer, read_recipe, read_views
from pipelines import registry
from schemas.errors import UsageError
from schemas.recipes import BuildRecipe, EncodeRecipe, IngestRecipe

_EPILOG = """\
exit codes:
  0    done; rejections within the recipe's budget are not an error
  2    wrong usage, recipe or card
  3    the input cannot be read or holds nothing, or the disk cannot be written
  4    finished, but failures exceed the budget, or a unit of work was lost
  5    verification found a problem
  130  interrupted (Ctrl-C); 143: terminated. The same command continues.
"""


class _Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help of the same width everywhere, so that the one in the docs is the one on the screen."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


def make_parser() -> argparse.ArgumentParser:
    """The whole command line, for parsing and for the docs."""
    parser = _Parser(
        prog="wamloom",
        description="Weaves robot recordings into verified training data for World-Action Models.",
        epilog=_EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"wamloom {version('wamloom')}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)

    sample = _verb(verbs, "sample", "write simulated recordings to try things on", _sample)
    sample.add_argument(
        "out", type=arguments.new_place, metavar="OUT", help="folder to write; sets go to OUT/LAYOUT/ROBOT"
    )
    layouts = ", ".join(registry.names("layouts"))
    sample.add_argument("--layout", default="rlds", help=f"how to store them: {layouts} (default: rlds)")
    sample.add_argument(
        "--episodes", type=arguments.count, default=3, metavar="N", help="how many of each robot (default: 3)"
    )
    sample.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same recordings (default: 0)")
    _dry_run(sample)

    ingest = _verb(verbs, "ingest", "read recordings into the lake, judge them, account for every one", _ingest)
    ingest.add_argument(
        "locations", type=arguments.location, nargs="+", metavar="LOCATION", help="folder or URL of recordings"
    )
    _lake(ingest, arguments.new_place)
    ingest.add_argument(
        "--card", type=arguments.place, help="data set card by name or TOML file (default: recognized from the data)"
    )
    _recipe(ingest)
    ingest.add_argument(
        "--annotations",
        type=arguments.location,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="files published beside DROID (languages, calibrations, keep-ranges), or folders of them",
    )
    ingest.add_argument("--retry", action="store_true", help="take failed and rejected episodes up again")
    _dry_run(ingest)
    _executor(ingest)

    encode = _verb(verbs, "encode", "turn the lake's video into latents, each computed once", _encode)
    _lake(encode)
    encoders = ", ".join(registry.names("encoders"))
    encode.add_argument("--encoder", metavar="NAME", help=f"{encoders} (default: the recipe's, wavelet)")
    encode.add_argument(
        "--weights", type=arguments.place, metavar="PATH", help="folder or hub id of the encoder's weights"
    )
    encode.add_argument("--views", type=arguments.place, metavar="RECIPE", help="TOML file with the keys of [views]")
    encode.add_argument("--where", default="", metavar="EXPR", help="only episodes for which this SQL filter holds")
    _recipe(encode)
    _dry_run(encode)
    _executor(encode)

    texts = _verb(verbs, "texts", "turn the lake's instructions into embeddings, each computed once", _texts)
    _lake(texts)
    arguments.add_texts(texts)
    _recipe(texts)
    _dry_run(texts)
    _executor(texts)

    build = _verb(verbs, "build", "write a release that trainers read with their own loaders", _build)
    _lake(build)
    arguments.add_build(build)
    _recipe(build)
    _dry_run(build)
    _executor(build)

    verify = _verb(verbs, "verify", "re-check hashes, counts and alignment", _verify)
    _target(verify)
    verify.add_argument("--lake", metavar="LAKE", help="check a release's alignment against the lake it was built from")
    verify.add_argument("--readers", action="store_true", help="also open a release with its users' own libraries")
    verify.add_argument(
        "--latents",
        type=arguments.count,
        default=0,
        metavar="N",
        help="of a lake: decode N clips back with the encoder and views of a recipe, and compare with their frames",
    )
    verify.add_argument(
        "--encoder",
        metavar="NAME",
        help="for --latents (default: the recipe's, wavelet); of a release: whether its latents are of this very encoder",
    )
    verify.add_argument("--weights", type=arguments.place, metavar="PATH", help="the encoder's weights")
    verify.add_argument(
        "--episodes",
        type=arguments.count,
        metavar="N",
        help="of a release: decode the pictures of N episodes of each group (default: 8)",
    )
    verify.add_argument(
        "--certificate",
        type=arguments.new_file,
        metavar="FILE.json",
        help="of a release: write what was checked, and the worst that was seen",
    )
    _recipe(verify)

    report = _verb(verbs, "report", "write one HTML page: what is in the data and what is wrong with it", _report)
    _target(report)
    report.add_argument("--out", required=True, type=arguments.new_file, metavar="FILE.html", help="file to write")
    report.add_argument(
        "--tokens",
        type=arguments.place,
        metavar="FILE.json",
        help="also show what `tokens bench --out FILE.json` measured",
    )
    report.add_argument(
        "--certificate",
        type=arguments.place,
        metavar="FILE.json",
        help="of a release: show this certificate of `verify` (default: what is verified now, without a lake)",
    )
    _dry_run(report)

    status = _verb(verbs, "status", "say what the lake holds", _status)
    _lake(status)

    show = _verb(verbs, "show", "show a lake or a release, one episode or one sample", _show)
    _target(show)
    which = show.add_mutually_exclusive_group()
    which.add_argument("--episode", metavar="ID", help="one episode, by its id or the beginning of it")
    which.add_argument("--sample", type=arguments.index, metavar="K", help="the K-th sample of a release, from 0")
    show.add_argument("--format", metavar="NAME", help="whose samples are counted (default: the first of the release)")
    show.add_argument("--out", type=arguments.new_file, metavar="FILE.png", help="draw the pictures of the sample")
    _cards(verbs)
    _views(verbs)
    _tokens(verbs)
    return parser


def _cards(verbs: Any) -> None:
    cards = verbs.add_parser(
        "cards",
        help="list, show, check and draft the cards that give recordings their meaning",
        description="List, show, check and draft the cards that give recordings their meaning.",
        formatter_class=_Help,
    )
    actions = cards.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    _verb(actions, "list", "say which cards are shipped, and what they do not know", _list_cards)
    show = _verb(actions, "show", "print a data set card and the card of its robot", _show_card)
    show.add_argument("card", type=arguments.place, metavar="CARD", help="data set card by name, or TOML file")
    check = _verb(actions, "check", "hold a card against recordings and say what disagrees", _check_card)
    check.add_argument("card", type=arguments.place, metavar="CARD", help="data set card by name, or TOML file")
    new = _verb(actions, "new", "draft the cards of recordings that no card knows", _new_card)
    for parser in (check, new):
        parser.add_argument("location", type=arguments.location, metavar="LOCATION", help="folder or URL of recordings")
        parser.add_argument(
            "--episodes", type=arguments.count, default=10, metavar="N", help="how many to look at (default: 10)"
        )
    new.add_argument("--name", help="name of the card (default: the data set's)")
    new.add_argument(
        "--out", type=arguments.new_place, metavar="FOLDER", help="where to write both cards (default: print them)"
    )
    _dry_run(new)


def _views(verbs: Any) -> None:
    views = verbs.add_parser(
        "views",
        help="list canvases of several views, and look at what a view recipe makes of an episode",
        description="List canvases of several views, and look at what a view recipe makes of an episode.",
        formatter_class=_Help,
    )
    actions = views.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    _verb(actions, "list", "say which canvases are shipped", _list_views)
    show = _verb(actions, "show", "draw some frames of an episode as an encode recipe would see them", _show_views)
    _lake(show)
    show.add_argument("--episode", required=True, metavar="ID", help="its id or the beginning of it")
    show.add_argument("--canvas", metavar="NAME", help="a canvas by name, or TOML file (default: the recipe's, if any)")
    show.add_argument("--views", type=arguments.place, metavar="RECIPE", help="TOML file with the keys of [views]")
    show.add_argument("--frames", type=arguments.count, default=6, metavar="N", help="how many moments (default: 6)")
    show.add_argument("--out", required=True, type=arguments.new_file, metavar="FILE.png", help="file to write")
    _recipe(show)
    _dry_run(show)


def _tokens(verbs: Any) -> None:
    tokens = verbs.add_parser(
        "tokens",
        help="measure action tokenizers",
        description="Measure action tokenizers.",
        formatter_class=_Help,
    )
    actions = tokens.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    bench = _verb(actions, "bench", "measure every tokenizer on the actions of every robot of a lake", _bench_tokens)
    _lake(bench)
    known = ", ".join(registry.names("tokenizers"))
    bench.add_argument("--tokenizer", nargs="+", action="extend", metavar="NAME", help=f"of {known} (default: all)")
    bench.add_argument(
        "--published",
        type=arguments.place,
        action="append",
        metavar="FOLDER",
        help="a published FAST vocabulary, measured too",
    )
    bench.add_argument(
        "--holdout",
        type=float,
        default=0.2,
        metavar="PART",
        help="part of the episodes to measure on and not to fit to (default: 0.2)",
    )
    bench.add_argument("--where", metavar="EXPR", help="only episodes for which this SQL filter holds")
    _recipe(bench)
    bench.add_argument(
        "--out",
        nargs="+",
        action="extend",
        type=arguments.page_or_json,
        metavar="FILE",
        help="files to write too: FILE.html, a page with plots; FILE.json, for `report --tokens`",
    )
    _dry_run(bench)


def _verb(verbs: Any, name: str, meaning: str, call: Callable[[argparse.Namespace], Answer]) -> argparse.ArgumentParser:
    text = meaning[0].upper() + meaning[1:] + "."
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=meaning, description=text, formatter_class=_Help)
    parser.set_defaults(call=call)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every unit of work on stderr")
    return parser


def _lake(parser: argparse.ArgumentParser, kind: Callable[[str], str] = arguments.place) -> None:
    parser.add_argument("--lake", required=True, type=kind, metavar="LAKE", help="folder of the lake")


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", type=arguments.place, metavar="LAKE|RELEASE", help="folder of a lake or of a release")


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", type=arguments.place, metavar="FILE", help="TOML file of choices; docs/recipes.md lists them"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one choice, such as limits.max_frames=900",
    )


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")


def _executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor",
        choices=("auto", "ray", "inline"),
        default="auto",
        help="where units run: a Ray cluster, or this process; auto: Ray from 5 units on (default: auto)",
    )


def _run(verb: str, given: object) -> Answer:
    answer: Answer = importlib.import_module(f"jobs.{verb}").run(given)
    return answer


def _sample(args: argparse.Namespace) -> Answer:
    return _run("sample", options.SampleOptions(args.out, args.layout, args.episodes, args.seed, args.dry_run))


def _ingest(args: argparse.Namespace) -> Answer:
    recipe = read_recipe(IngestRecipe, args.recipe, args.set, {"annotations": args.annotations})
    given = options.IngestOptions(
        tuple(args.locations), args.lake, args.card, recipe, args.retry, args.dry_run, args.executor
    )
    return _run("ingest", given)


def _encode(args: argparse.Namespace) -> Answer:
    flags = {"encoder": args.encoder, "weights": args.weights, "views": read_views(args.views)}
    recipe = read_recipe(EncodeRecipe, args.recipe, args.set, flags)
    return _run("encode", options.EncodeOptions(args.lake, recipe, args.where, args.dry_run, args.executor))


def _texts(args: argparse.Namespace) -> Answer:
    return _run("texts", arguments.texts_options(args))


def _build(args: argparse.Namespace) -> Answer:
    return _run("build", arguments.build_options(args))


def _verify(args: argparse.Namespace) -> Answer:
    recipe = read_recipe(EncodeRecipe, args.recipe, args.set, {"encoder": args.encoder, "weights": args.weights})
    given = options.VerifyOptions(
        args.target,
        args.lake,
        args.readers,
        args.latents,
        recipe,
        args.encoder is not None or args.weights is not None,
        args.episodes,
        args.certificate,
    )
    return _run("verify", given)


def _report(args: argparse.Namespace) -> Answer:
    return _run("report", options.ReportOptions(args.target, args.out, args.dry_run, args.tokens, args.certificate))


def _status(args: argparse.Namespace) -> Answer:
    return _run("status", options.StatusOptions(args.lake))


def _show(args: argparse.Namespace) -> Answer:
    return _run("show", options.ShowOptions(args.target, args.episode, args.sample, args.format, args.out))


def _list_cards(_: argparse.Namespace) -> Answer:
    return _run("cards", options.CardsOptions("list"))


def _show_card(args: argparse.Namespace) -> Answer:
    return _run("cards", options.CardsOptions("show", args.card))


def _check_card(args: argparse.Namespace) -> Answer:
    return _run("cards", options.CardsOptions("check", args.card, args.location, args.episodes))


def _new_card(args: argparse.Namespace) -> Answer:
    given = options.CardsOptions("new", "", args.location, args.episodes, args.name, args.out, args.dry_run)
    return _run("cards", given)


def _list_views(_: argparse.Namespace) -> Answer:
    return _run("views", options.ViewsOptions("list"))


def _show_views(args: argparse.Namespace) -> Answer:
    views, settings = read_views(args.views), list(args.set)
    if args.canvas and views is None:
        settings.append(f"views.canvas={args.canvas}")
    elif args.canvas and views is not None:
        views["canvas"] = args.canvas
    recipe = read_recipe(EncodeRecipe, args.recipe, settings, {"views": views})
    shown = options.ViewsOptions("show", args.lake, args.episode, recipe, args.out, args.frames, args.dry_run)
    return _run("views", shown)


def _bench_tokens(args: argparse.Namespace) -> Answer:
    recipe = read_recipe(BuildRecipe, args.recipe, args.set, {"where": args.where})
    given = options.TokensOptions(
        args.lake,
        recipe,
        tuple(args.tokenizer or ()),
        tuple(args.published or ()),
        args.holdout,
        tuple(args.out or ()),
        args.dry_run,
    )
    return _run("tokens", given)
