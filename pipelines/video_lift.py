"""Lifts compressed frames out of a video as they are, for another file to hold. Child side.

Only the colour tags are set: to BT.601 in limited range, which is what frames without a tag are taken for here and what
``video_writer`` tags its own with. No pixel changes by it. What the container says of turning, mirroring and cropping is left
out, as a decode here heeds none of it.
"""

import itertools
from fractions import Fraction

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from pipelines.video_boxes import show_as_stored
from pipelines.video_cut import PACKED_RATE, Written, deterministic_container
from pipelines.video_demux import PacketHash, Refusal, codec_name, nanoseconds, opened, packets, refused

_BT601 = 6
"""SMPTE 170M in the numbering of ISO/IEC 23091-2, for primaries, transfer and matrix alike."""
_TAGS = {
    "h264": f"h264_metadata=video_full_range_flag=0:colour_primaries={_BT601}"
    f":transfer_characteristics={_BT601}:matrix_coefficients={_BT601}",
    "av1": f"av1_metadata=color_range=tv:color_primaries={_BT601}"
    f":transfer_characteristics={_BT601}:matrix_coefficients={_BT601}",
}
"""Bitstream filters of FFmpeg that write the tags, by codec."""


def lift(descriptor: int, output: int, first: int, num_frames: int, limits: dict[str, int]) -> Written:
    """Writes the packets ``first`` to ``first + num_frames`` of a plain video (``VideoFacts.is_plain``) as an MP4.

    Their times are nominal. The same input gives the same bytes. Raises Refusal.
    """
    tick = Fraction(1, PACKED_RATE)
    with refused(), opened(descriptor, limits) as (container, stream, _):
        codec = codec_name(stream)
        if codec not in _TAGS:
            raise Refusal("unsupported_codec", f"{codec} is not taken over as it is")
        with deterministic_container(output, "mp4", {}) as target:
            copied = target.add_stream_from_template(stream, opaque=True)
            copied.time_base = tick
            tagging = BitStreamFilterContext(_TAGS[codec], stream, copied)
            digest = PacketHash("xxh3", b"")
            number = 0
            for original in itertools.islice(packets(container, stream), first, first + num_frames):
                is_key = original.is_keyframe
                for packet in tagging.filter(av.Packet(bytes(original))):
                    digest.add(packet)
                    packet.stream, packet.time_base = copied, tick
                    packet.pts = packet.dts = number
                    packet.duration, packet.is_keyframe = 1, is_key
                    target.mux_one(packet)
                    number += 1
        show_as_stored(output)
    if number != num_frames:
        raise Refusal("count_mismatch", f"{number} of {num_frames} frames came out")
    return Written(0, digest.text, nanoseconds(np.arange(num_frames), tick))
