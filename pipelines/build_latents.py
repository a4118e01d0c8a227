"""Which latents of a lake a build joins."""

from pipelines.build_unit import LatentChoice
from pipelines.lake import Lake, quoted
from schemas.errors import LakeError, RecipeError
from schemas.recipes import BuildRecipe
from schemas.time import rate_text


def choose_latents(
    lake: Lake, recipe: BuildRecipe, wanted: set[str]
) -> tuple[LatentChoice | None, dict[tuple[str, str], list[str]]]:
    """The one set of latents that serves the recipe, and its row hashes by episode and slot.

    Raises RecipeError or LakeError where there is none, or a choice.
    """
    if recipe.content == "frames":
        return None, {}
    if recipe.encoder is None:
        raise RecipeError(f'content = "{recipe.content}" needs latents', hint='name their encoder: encoder = "wavelet"')
    rate = _latent_rate(recipe)
    condition = f"encoder = {quoted(recipe.encoder)} and rate = {quoted(rate)}"
    columns = ["episode_id", "slot", "encoder_fingerprint", "views_fingerprint", "row_sha256"]
    rows = [row for row in lake.rows("latents", columns, condition) if row["episode_id"] in wanted]
    choices = sorted({(row["encoder_fingerprint"], row["views_fingerprint"]) for row in rows})
    if not choices:
        raise no_latents("there are none in the lake", lake, recipe)
    if len(choices) > 1:
        raise RecipeError(
            f"the lake has {len(choices)} different sets of {recipe.encoder} latents at rate {rate}",
            hint="keep one set per lake for now: encode into a lake of its own",
        )
    hashes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        hashes.setdefault((row["episode_id"], row["slot"]), []).append(row["row_sha256"])
    return choices[0], hashes


def _latent_rate(recipe: BuildRecipe) -> str:
    return "native" if recipe.rate is None else rate_text(recipe.rate)


def no_latents(what: str, lake: Lake, recipe: BuildRecipe) -> LakeError:
    """The error where latents that the recipe needs are not there, and how to make them."""
    rate = _latent_rate(recipe)
    return LakeError(
        f"{recipe.encoder} latents at rate {rate} are needed, and {what}",
        str(lake.root),
        f"run `wamloom encode --lake {lake.root.name} --encoder {recipe.encoder} --set rate={rate}`; leave out views "
        "with views.slots, and episodes too short for a clip with --where",
        "no_latents",
    )
