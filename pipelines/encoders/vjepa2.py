"""V-JEPA 2 (V-JEPA 2-AC, VLA-JEPA): features of frames, one vector per pair of frames and patch of 16x16 px. No decoder.

A clip is seen as a whole: every feature depends on all its frames. With ``per_frame``, each frame is encoded by itself as a
pair of equal ones, as V-JEPA 2-AC does.
"""

from typing import Any

from pipelines.latent_models import OF_CLIPS, LatentModel, Network, Options, checked_options
from pipelines.latent_weights import Found, find_model, load_model

VERSION = 1
KIND = "vjepa2"
IMAGE_MEAN = (0.485, 0.456, 0.406)
"""Of red, green and blue in 0..1 over ImageNet, as in the video_preprocessor_config.json of facebook/vjepa2-vitl-fpc64-256."""
IMAGE_STD = (0.229, 0.224, 0.225)


def load(weights: str | None, options: Options) -> LatentModel:
    """The encoder with the weights at ``weights``: a folder, or an id such as ``facebook/vjepa2-vitl-fpc64-256``.

    Features are [L, C, H/16, W/16], after the layer norm of the model; the option ``layer_norm`` adds the one without weights
    that V-JEPA 2-AC predicts in. ``per_frame`` gives one latent frame per frame, else one per two (``tubelet_size``).
    Frames may have another size than the model was trained on, and need not be square: positions count from the first
    patch, as in the authors' code; the library alone would number the patches of such frames as if they were square.

    Raises RecipeError for a wrong option, MissingFile where there are no weights, LayoutError where they are not of this
    model or damaged, FingerprintMismatch where they are not those that ``sha256`` pins.
    """
    import torch
    import transformers

    chosen = checked_options("vjepa2", options, {**OF_CLIPS, "per_frame": False, "layer_norm": False})
    found = find_model("vjepa2", weights, KIND, chosen)
    _check(found)
    patch, channels, tubelet = (
        found.whole(key, value) for key, value in (("patch_size", 16), ("hidden_size", 1024), ("tubelet_size", 2))
    )
    model = load_model(transformers.VJEPA2Model, found, dtype=chosen["dtype"], attn_implementation="sdpa")
    encoder = model.encoder
    per_frame, layer_norm = chosen["per_frame"], chosen["layer_norm"]

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        num_clips, _, num_frames, height, width = pixels.shape
        rows, columns = height // patch, width // patch
        for layer in encoder.layer:
            layer.attention.get_position_ids = _positions(rows, columns)
        clips = pixels.transpose(1, 2)
        if per_frame:
            clips = clips.flatten(0, 1)[:, None].expand(-1, tubelet, -1, -1, -1)
        tokens = encoder(pixel_values_videos=clips).last_hidden_state.float()
        if layer_norm:
            tokens = torch.nn.functional.layer_norm(tokens, (channels,))
        depth = num_frames if per_frame else num_frames // tubelet
        return tokens.reshape(num_clips, depth, rows, columns, channels).permute(0, 4, 1, 2, 3), None

    network = Network(
        encoder,
        encode,
        None,
        channels,
        patch,
        1 if per_frame else tubelet,
        1 if per_frame else tubelet,
        (255 * IMAGE_MEAN[0], 255 * IMAGE_MEAN[1], 255 * IMAGE_MEAN[2]),
        (255 * IMAGE_STD[0], 255 * IMAGE_STD[1], 255 * IMAGE_STD[2]),
    )
    return LatentModel(
        "vjepa2",
        VERSION,
        network,
        None,
        found,
        chosen,
        "layer norm of the model" + (", then layer norm without weights" if layer_norm else ""),
        unit_scale=layer_norm,
        values={"per_frame": per_frame, "layer_norm": layer_norm},
    )


def _check(found: Found) -> None:
    found.expect("in_chans", found.whole("in_chans", 3), 3)
    found.expect("patch_size", found.whole("patch_size", 16), 16)
    found.expect("tubelet_size", found.whole("tubelet_size", 2), 2)


def _positions(rows: int, columns: int) -> Any:
    """What numbers the patches of frames of ``rows x columns`` patches: their frame, row and column."""
    import torch

    def position_ids(x: torch.Tensor, masks: None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # noqa: ARG001
        ids = torch.arange(x.size(1), device=x.device)
        return ids // (rows * columns), ids // columns % rows, ids % columns

    return position_ids
