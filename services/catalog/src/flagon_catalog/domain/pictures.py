"""Pictures of strangers, drawn anew: what is kept was written by us, pixel by pixel.

Decoding what a stranger sent is the most dangerous thing the catalog does, so it happens in
a process of its own, `python -m flagon_catalog.domain.pictures`, which has no secret, little
memory and little time, and may write no file (`flagon_catalog.clients.Studio` starts it).
"""

import io
import resource
import struct
import sys
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, TYPE_CHECKING

from flagon_chassis.errors import Failure, Invalid

if TYPE_CHECKING:
    from PIL import Image

EDGE_MAX = 2048
"""Longest edge of what is kept, in pixels; greater ones are made smaller."""
WEBP = "WEBP"
_QUALITY = 82
_ORIENTATION = 0x0112

_HEAD = 16
"""As many bytes as tell the format."""

# How the process ends that draws; whatever else it is, the picture was no good.
DRAWN, OF_NO_KIND, OF_TOO_MANY_PIXELS = 0, 3, 4
FRAME = struct.Struct("!HH")
"""What it writes before the picture: width and height."""


class PictureUnknown(Failure):
    """The file is no picture of a kind that is taken."""

    status = 415


class PictureTooLarge(Invalid):
    """The picture has more pixels than are taken."""


class PictureUnreadable(Invalid):
    """The picture cannot be read."""


@dataclass(frozen=True)
class Picture:
    """A picture as it is kept: WebP without metadata."""

    content: bytes
    width: int
    height: int

    @property
    def sha256(self) -> str:
        """The digest of its bytes, in hexadecimal digits: its name."""
        return sha256(self.content).hexdigest()


def sniff(head: bytes) -> str | None:
    """Return what a file is by its first bytes, as Pillow calls it; None: not ours.

    Neither its name nor its `Content-Type` is looked at: whoever sends it chooses them.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[4:12] in {b"ftypavif", b"ftypavis"}:
        return "AVIF"
    return None


def redraw(file: IO[bytes], *, pixels_max: int) -> Picture:
    """Return what a file shows, upright, in sRGB and at most `EDGE_MAX` wide and high.

    Of an animation it is the first frame. Nothing but pixels comes through: no Exif, XMP,
    colour profile, comment, and nothing that is hidden before, behind or between them.

    :param file: read twice, so it must be able to seek.
    :raises PictureUnknown: it is none of JPEG, PNG, WebP, GIF and AVIF.
    :raises PictureTooLarge: it has too many pixels; none of them was decoded.
    :raises Exception: by Pillow, of many kinds: it is broken.
    """
    # Here, because only the process that draws ever needs them.
    from PIL import AvifImagePlugin, Image, ImageFile, ImageOps  # noqa: PLC0415

    kind = sniff(file.read(_HEAD))
    file.seek(0)
    if kind is None:
        raise PictureUnknown("Send JPEG, PNG, WebP, GIF or AVIF.")
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Threads would count as processes, of which there may be no more.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # Pillow's own limit only warns, and speaks of other numbers.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(file, formats=[kind]) as opened:
        if opened.width * opened.height > pixels_max:
            raise PictureTooLarge(
                f"Send at most {pixels_max} pixels: it has {opened.width} times"
                f" {opened.height}.",
                pixels_max=pixels_max,
            )
        # A JPEG can be decoded at a half, a quarter, an eighth of its size.
        opened.draft(None, (EDGE_MAX, EDGE_MAX))
        opened.load()
        orientation = opened.getexif().get(_ORIENTATION)
        image = _small(opened)
    image = _in_srgb(image)
    if orientation is not None:
        # Whatever else stands beside it is not taken over.
        upright = Image.Exif()
        upright[_ORIENTATION] = orientation
        image.info["exif"] = upright.tobytes()
        image = ImageOps.exif_transpose(image)
    # A new one: of the old one only the pixels are known to be harmless.
    fresh = Image.new(image.mode, image.size)
    fresh.paste(image)
    written = io.BytesIO()
    fresh.save(written, WEBP, quality=_QUALITY, method=4)
    return Picture(written.getvalue(), *fresh.size)


def main() -> int:
    """Draw the picture that is standard input anew, to standard output.

    Arguments: the most pixels, and the most bytes of memory and seconds that it may take.

    :return: the exit status; anything that Pillow raises ends with another one.
    """
    pixels_max, memory_bytes, seconds = map(int, sys.argv[1:])
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        # Pipes can be written, files cannot.
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    try:
        picture = redraw(sys.stdin.buffer, pixels_max=pixels_max)
    except PictureUnknown:
        return OF_NO_KIND
    except PictureTooLarge:
        return OF_TOO_MANY_PIXELS
    sys.stdout.buffer.write(FRAME.pack(picture.width, picture.height))
    sys.stdout.buffer.write(picture.content)
    return DRAWN


def _small(image: "Image.Image") -> "Image.Image":
    """Return an image in a mode that can be made smaller well, and make it so."""
    if image.mode.startswith("I"):
        # 16 bits a pixel: the lower ones are more than any screen shows.
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    elif image.mode not in {"L", "RGB", "RGBA", "CMYK"}:
        clear = image.has_transparency_data
        image = _with_profile(image, image.convert("RGBA" if clear else "RGB"))
    elif image.mode in {"L", "RGB"} and image.has_transparency_data:
        image = _with_profile(image, image.convert("RGBA"))
    image.thumbnail((EDGE_MAX, EDGE_MAX), reducing_gap=2.0)
    return image


def _with_profile(old: "Image.Image", new: "Image.Image") -> "Image.Image":
    if "icc_profile" in old.info:
        new.info["icc_profile"] = old.info["icc_profile"]
    return new


def _in_srgb(image: "Image.Image") -> "Image.Image":
    """Return an image in sRGB, which is what a picture without a profile means."""
    from PIL import ImageCms  # noqa: PLC0415

    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    profile = image.info.get("icc_profile")
    if profile:
        try:
            described = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, described, ImageCms.createProfile("sRGB"), outputMode=mode
            )
        except (ImageCms.PyCMSError, OSError):
            # A profile for other colours than the picture has is no reason to refuse it.
            pass
        else:
            if converted is not None:
                return converted
    return image.convert(mode)


if __name__ == "__main__":
    sys.exit(main())
