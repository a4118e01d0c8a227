"""What the packets of a video are decoded by, and whether they change it on the way. Child side, standard library only.

H.264 has parameter sets (ITU-T H.264, 7.3.2), AV1 a sequence header (AV1 specification, 5.5). A container holds them once, as
the codec's extra data, but packets may bring others, which then count for all that follow.
"""

from collections.abc import Iterator

_PARAMETER_SETS = (7, 8, 13, 15)
"""NAL units that are sets for sequences and pictures, the extension and the subset of the former."""
_SEQUENCE_SETS = 7
_SEQUENCE_HEADER = 1
_AVCC, _AV1C = b"\x01", b"\x81"
"""What extra data of MP4 and Matroska begins with; others, such as start codes, are not looked into."""
_WITH_CHROMA = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)
"""Profiles of H.264 whose sequence parameter sets tell of chroma and bit depth."""


class Setup:
    """Begins with the parameter sets or the sequence header in ``extradata`` and sees what packets bring. Of other codecs
    than H.264 and AV1 nothing is known.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self._codec, self._length_bytes = codec, length_bytes(extradata)
        self._stored: frozenset[bytes] = frozenset()
        if codec == "h264" and self._length_bytes:
            self._stored = frozenset(_stored_sets(extradata))
        elif codec == "av1" and extradata[:1] == _AV1C:
            self._stored = frozenset(_sequence_headers(memoryview(extradata)[4:]))
        self._brought: set[bytes] = set()
        self._all_keys_bring = True

    @property
    def is_progressive(self) -> bool:
        """Whether it is known that no frame can be interlaced."""
        sequences = [one for one in self._stored if one[0] & 31 == _SEQUENCE_SETS]
        return self._codec == "av1" or (bool(sequences) and all(map(_is_progressive, sequences)))

    def see(self, packet: memoryview, is_key: bool) -> None:
        """The next packet."""
        if not self._stored:
            return
        if self._codec == "av1":
            found = set(_sequence_headers(packet))
        else:
            units = nal_units(packet, self._length_bytes)
            found = {bytes(unit) for unit in units if unit[0] & 31 in _PARAMETER_SETS}
        self._brought |= found
        if is_key and not found:
            self._all_keys_bring = False

    @property
    def is_one(self) -> bool:
        """Whether everything seen is decoded alike, wherever decoding begins: packets bring what ``extradata`` has. Of AV1 also
        where that is another header, as SVT-AV1 writes it, but each key frame brings one, always the same.
        """
        if not self._stored or b"" in self._brought:
            return False
        if self._codec == "av1" and self._all_keys_bring and len(self._brought) == 1:
            return True
        return self._brought <= self._stored

    @property
    def brought(self) -> bytes:
        """What packets brought, to tell setups apart by."""
        return b"".join(sorted(self._brought))


def length_bytes(extradata: bytes) -> int:
    """Of how many bytes the length before each NAL unit of H.264 is; 0 where start codes part them."""
    return (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[:1] == _AVCC else 0


def nal_units(packet: memoryview, width: int) -> Iterator[memoryview]:
    """The NAL units of a packet of H.264, each behind its length of ``width`` bytes."""
    position = 0
    while position + width < len(packet):
        stop = position + width + int.from_bytes(packet[position : position + width], "big")
        if stop > position + width:
            yield packet[position + width : stop]
        position = stop


def _stored_sets(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets in an ``AVCDecoderConfigurationRecord`` (ISO/IEC 14496-15, 5.3.3.1): of sequences, then of pictures."""
    position, many = 5, 31
    for _ in range(2):
        count = extradata[position] & many if position < len(extradata) else 0
        position, many = position + 1, 255
        for _ in range(count):
            start = position + 2
            position = start + int.from_bytes(extradata[position:start], "big")
            if start < position <= len(extradata):
                yield extradata[start:position]


def _sequence_headers(units: memoryview) -> Iterator[bytes]:
    """The content of the sequence headers among the open bitstream units of AV1; an empty one for units nobody can tell apart."""
    position = 0
    while position < len(units):
        head = units[position]
        position += 2 if head & 4 else 1
        size, position = _size(units, position) if head & 2 else (len(units) - position, position)
        if position + size > len(units):
            yield b""
            return
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield bytes(units[position : position + size])
        position += size


def _size(units: memoryview, position: int) -> tuple[int, int]:
    """The number in seven bits a byte at ``position``, the low ones first, and where it ends."""
    size = 0
    for shift, byte in enumerate(units[position : position + 8]):
        size |= (byte & 127) << 7 * shift
        if byte < 128:
            return size, position + shift + 1
    return len(units), position


class _Bits:
    """Reads what ITU-T H.264 writes bit by bit. Raises ValueError past the end."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def take(self, count: int) -> int:
        """The next ``count`` bits as a number."""
        start, self._at = self._at, self._at + count
        return int(self._bits[start : self._at], 2)

    def golomb(self) -> int:
        """The next Exp-Golomb code (9.1), unsigned."""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1


def _is_progressive(sequence: bytes) -> bool:
    """Its ``frame_mbs_only_flag`` (7.3.2.1.1); False where it is not found, as behind scaling lists."""
    bits = _Bits(sequence[1:].replace(b"\x00\x00\x03", b"\x00\x00"))
    try:
        profile = bits.take(8)
        bits.take(16), bits.golomb()
        if profile in _WITH_CHROMA:
            if bits.golomb() == 3:
                bits.take(1)
            bits.golomb(), bits.golomb(), bits.take(1)
            if bits.take(1):
                return False
        bits.golomb()
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.take(1), bits.golomb(), bits.golomb()
            for _ in range(bits.golomb()):
                bits.golomb()
        bits.golomb(), bits.take(1), bits.golomb(), bits.golomb()
        return bits.take(1) == 1
    except ValueError:
        return False
