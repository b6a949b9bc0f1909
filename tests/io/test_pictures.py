"""Pictures from files: every kind that Pillow reads becomes grey or colour in 0..1, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preimage.errors import FileFormatError
from preimage.io.pictures import encoded, read_mask, read_picture, to_bytes, write_picture

GREY = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def test_grey_and_colour(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "g.png")
    Image.fromarray(COLOUR).save(tmp_path / "c.png")
    grey, colour = read_picture(tmp_path / "g.png"), read_picture(tmp_path / "c.png")
    np.testing.assert_array_equal(grey.values, GREY[None].astype(np.float32) / 255)
    np.testing.assert_array_equal(colour.values, np.moveaxis(COLOUR, -1, 0).astype(np.float32) / 255)
    assert (grey.has_colour, colour.has_colour) == (False, True)
    assert grey.colour().shape == (3, 6, 5)
    wanted = COLOUR.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(colour.grey()[0], wanted, atol=1e-6)
    assert read_picture(tmp_path / "g.png").notes == []


def test_a_colour_file_without_colour_is_grey(tmp_path: Path) -> None:
    Image.fromarray(np.repeat(GREY[..., None], 3, axis=2)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").values.shape == (1, 6, 5)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_sixteen_bits_keep_their_depth(tmp_path: Path, byte_order: str) -> None:
    deep = (np.arange(30).reshape(6, 5) * 2003 + 7).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.tif" if byte_order == "<" else tmp_path / "a.png")
    name = "a.tif" if byte_order == "<" else "a.png"
    np.testing.assert_allclose(read_picture(tmp_path / name).values[0], deep / 65535, atol=1e-7)


def test_what_is_transparent_lies_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 3] = [[0, 128, 255], [255, 255, 255]]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_allclose(picture.values[0, 0], [1.0, 127 / 255, 0.0], atol=0.005)
    assert "over white" in picture.notes[0]


@pytest.mark.parametrize("mode", ["P", "1", "LA", "CMYK", "PA", "I", "F"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    name = {"CMYK": "a.jpg", "PA": "a.png", "I": "a.tif", "F": "a.tif"}.get(mode, "a.png")
    image = Image.fromarray(GREY)
    image = image.convert("RGB").convert(mode) if mode == "CMYK" else image.convert(mode) if mode != "PA" else image.convert("LA")
    image.save(tmp_path / name)
    values = read_picture(tmp_path / name).values
    assert values.dtype == np.float32
    assert values.shape[1:] == (6, 5)
    assert 0 <= values.min() <= values.max() <= 1


def test_a_float_picture_of_zero_to_one_is_taken_as_it_is(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 30, dtype=np.float32).reshape(6, 5)
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").values[0], values)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "n.tif")
    with pytest.raises(FileFormatError, match="NaN"):
        read_picture(tmp_path / "n.tif")


def test_a_photograph_is_turned_as_its_camera_noted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # orientation: turn by 90 degrees
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_allclose(picture.values[0], np.rot90(GREY, -1) / 255, atol=1e-6)
    assert picture.notes == ["turned as its camera noted"]


def test_the_first_frame_of_a_moving_picture(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "a.gif")
    assert "the first of 2 frames" in picture.notes
    np.testing.assert_allclose(picture.values[0], GREY / 255, atol=1e-6)


def test_longest(tmp_path: Path) -> None:
    for pixels in (np.tile(GREY, (4, 4)), np.tile(GREY, (4, 4)).astype(np.uint16) * 257):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        picture = read_picture(tmp_path / "a.png", longest=12)
        assert picture.values.shape == (1, 12, 10)
        assert picture.values.mean() == pytest.approx(GREY.mean() / 255, rel=0.05)
        assert read_picture(tmp_path / "a.png", longest=99).values.shape == (1, 24, 20)


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    for name, text in [
        ("empty.png", "is empty"), ("text.png", "no picture"), ("cut.png", "broken"), ("none.png", "no such file"), ("", "folder"),
    ]:  # fmt: skip
        with pytest.raises(FileFormatError, match=text) as error:
            read_picture(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    monkeypatch.setattr("preimage.io.pictures.MOST_PIXELS", 100)
    with pytest.raises(FileFormatError, match="40x40 is more than"):
        read_picture(tmp_path / "whole.png")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(FileFormatError, match="pixels"):
        read_picture(tmp_path / "bomb.png")


def test_writing_and_masks(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", np.array([[[-1.0, 0.5, 2.0]]], np.float32))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), [[0, 128, 255]])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), [[False, True, True]])
    assert to_bytes(np.zeros((3, 2, 4))).shape == (2, 4, 3)
    assert encoded(GREY, "JPEG", quality=90)[:2] == b"\xff\xd8"


def test_damaged_pictures_are_read_or_refused(tmp_path, monkeypatch):
    import fuzz_pictures

    counts, wrong = fuzz_pictures.fuzz(0, 120, tmp_path)
    assert not wrong
    assert min(counts["read"], counts["refused"]) > 10

    def broken(path):
        raise KeyError(path)

    monkeypatch.setattr(fuzz_pictures, "read_picture", broken)
    assert len(fuzz_pictures.fuzz(0, 5, tmp_path)[1]) == 5
