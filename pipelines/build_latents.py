"""Which latents of a lake a build joins."""

from pipelines.joined_latents import LatentChoice, camera_hz, latent_rate, sampling_of
from pipelines.lake import Lake, quoted
from pipelines.promised_latents import PromisedLatents
from pipelines.selection import stored_episodes
from pipelines.views import views_fingerprint
from schemas.errors import LakeError, RecipeError
from schemas.latent import is_same_rate
from schemas.recipes import BuildRecipe


def choose_latents(
    lake: Lake,
    recipe: BuildRecipe,
    wanted: set[str],
    choice: LatentChoice | None = None,
    promised: PromisedLatents | None = None,
) -> tuple[LatentChoice | None, dict[tuple[str, str], list[str]]]:
    """The one set of latents that serves the recipe, or ``choice``, and its row hashes by episode and slot; where some are
    ``promised``, that is their set, and keys stand for hashes.

    Raises RecipeError or LakeError where there is none, or a choice.
    """
    if recipe.content == "frames":
        return None, {}
    if recipe.encoder is None:
        raise RecipeError(f'content = "{recipe.content}" needs latents', hint='name their encoder: encoder = "wavelet"')
    rate = latent_rate(recipe)
    name, _, beginning = recipe.encoder.partition("@")
    condition = f"encoder = {quoted(name)} and starts_with(encoder_fingerprint, {quoted(beginning)})"
    views = views_fingerprint(recipe.views)
    if recipe.views.canvas:
        condition += f" and views_fingerprint = {quoted(views)}"
    columns = ["episode_id", "slot", "rate", "encoder_fingerprint", "views_fingerprint", "row_sha256"]
    rows = [row for row in lake.rows("latents", columns, condition) if row["episode_id"] in wanted]
    if choice is not None:
        rows = [row for row in rows if (row["encoder_fingerprint"], row["views_fingerprint"]) == choice]
    if promised is not None:
        rows = promised.among(rows)
    others = {row["episode_id"] for row in rows if row["rate"] != rate}
    cameras = {episode.episode_id: episode.views for episode in stored_episodes(lake, sorted(others))}
    rows = [
        row
        for row in rows
        if is_same_rate(row["rate"], rate, camera_hz(cameras.get(row["episode_id"], {}), row["slot"], recipe.views))
    ]
    if promised is not None:
        _check_promised(promised, {row["latent_id"] for row in rows}, rate, lake)
    choices = sorted({(row["encoder_fingerprint"], row["views_fingerprint"]) for row in rows})
    if len(choices) > 1:  # of the view recipe of this build, where there are such
        choices = [choice for choice in choices if choice[1] == views] or choices
    if not choices:
        raise no_latents("there are none in the lake", lake, recipe)
    if len(choices) > 1:
        told = ", ".join(f"{encoder[:8]} with views {of_views[:8]}" for encoder, of_views in choices[:5])
        raise RecipeError(
            f"the lake has {len(choices)} different sets of {recipe.encoder} latents at rate {rate}: {told}",
            "encoder",
            f'name one, as encoder = "{name}@{choices[0][0][:8]}", and the [views] that they were encoded with',
        )
    rows = [row for row in rows if (row["encoder_fingerprint"], row["views_fingerprint"]) == choices[0]]
    hashes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        hashes.setdefault((row["episode_id"], row["slot"]), []).append(row["row_sha256"])
    return choices[0], hashes


def _check_promised(promised: PromisedLatents, joined: set[str], rate: str, lake: Lake) -> None:
    if not promised.sources:
        raise no_clips("no episode has any", lake)
    if left := len(promised.keys - joined):
        raise RecipeError(
            f"the build joins latents at rate {rate}, and {left} of those of --encode are at another",
            "latent_rate",
            "leave rate and frame_stride out of the recipe of --encode, or set latent_rate in that of the build",
        )


def no_clips(what: str, lake: Lake) -> LakeError:
    """The error where an encode recipe cuts no clip of what a build shows."""
    return LakeError(
        f"--encode makes latents of clips, and {what}: too few frames, or none of that view",
        str(lake.root),
        "give shorter clips (clip.num_frames) in the recipe of --encode, leave views out of views.slots of the build, and "
        "episodes too short for a clip with --where",
        "no_latents",
    )


def no_latents(what: str, lake: Lake, recipe: BuildRecipe) -> LakeError:
    """The error where latents that the recipe needs are not there, and how to make them."""
    rate = latent_rate(recipe)
    name = (recipe.encoder or "").partition("@")[0]
    grid, stride = sampling_of(recipe)
    choice = " --set ".join(
        [
            *([f"rate={grid}"] if grid != "native" or stride == 1 else []),
            *([f"frame_stride={stride}"] if stride > 1 else []),
        ]
    )
    weights = "" if name == "wavelet" else " --weights FOLDER"
    rows = lake.rows("latents", ["rate"], f"encoder = {quoted(name)}")
    there = ", ".join(sorted({row["rate"] for row in rows}))
    others = f"; it has {name} latents at rate {there}: latent_rate names one of them" if there else ""
    return LakeError(
        f"{recipe.encoder} latents at rate {rate} are needed, and {what}{others}",
        str(lake.root),
        f"add --encode{weights} to this command, which makes them on the way (of a trainer's recipe, the head has the whole "
        f"command), or run `wamloom encode --lake {lake.root.name} --encoder {name}{weights} --set {choice}` with the [views] of "
        "this recipe; see `wamloom status` for those that are there; leave out views with views.slots, and episodes too short "
        "for a clip with --where",
        "no_latents",
    )
