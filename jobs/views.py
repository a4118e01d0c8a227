"""``wamloom views``: which canvases there are, and what a view recipe makes of an episode."""

from pathlib import Path

from jobs.options import Answer, ViewsOptions
from pipelines.cards import canvas_names, load_canvas
from pipelines.lake import Lake
from pipelines.look import episode_id_of
from pipelines.storage import write_durably
from pipelines.view_sheet import view_sheet


def run(options: ViewsOptions) -> Answer:
    """Lists the shipped canvases, or writes a sheet of one recipe on one episode as PNG."""
    return _list() if options.action == "list" else _show(options)


def _list() -> Answer:
    found = [load_canvas(name) for name in canvas_names()]
    values = {"canvases": [canvas.model_dump(mode="json") for canvas in found]}
    width = max(len(canvas.name) for canvas in found)
    lines = [
        f"{canvas.name:{width}}  {canvas.height_px}x{canvas.width_px}, joined as {canvas.join}: {canvas.title}"
        for canvas in found
    ]
    return Answer(values, lines)


def _show(options: ViewsOptions) -> Answer:
    lake = Lake.open(options.lake)
    episode = lake.episode(episode_id_of(lake, options.episode))
    sheet = view_sheet(lake, episode, options.recipe, options.frames)
    values = {
        "episode_id": episode.episode_id,
        "out": options.out,
        "dry_run": options.dry_run,
        "height_px": sheet.height,
        "width_px": sheet.width,
        "pictures": [{"name": name, "height_px": height, "width_px": width} for name, height, width in sheet.rows],
        "times_ns": list(sheet.times_ns),
    }
    told = ", ".join(f"{name} {height}x{width}" for name, height, width in sheet.rows)
    if not options.dry_run:
        write_durably(Path(options.out), sheet.png)
    done = "would write" if options.dry_run else "wrote"
    return Answer(values, [f"{done} {options.out}: {len(sheet.times_ns)} moments of {told}"])
