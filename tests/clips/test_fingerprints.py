"""Fingerprints: copies are found through codec, size, rate and brightness, and nothing else is."""

from fractions import Fraction

import numpy as np
import pytest
from films import scene, write

from video_ssl.clips.fingerprints import (
    COPY_DISTANCE,
    WORDS,
    copies,
    distance,
    fingerprint,
    tied,
    video_fingerprint,
)
from video_ssl.clips.reading import open_video

SCENES, FIGURES = 2, 3


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Files of 2 scenes x 3 figures; prints of each and lengths."""
    folder = tmp_path_factory.mktemp("films")
    names = [(s, f) for s in range(SCENES) for f in range(FIGURES)]
    return {name: write(folder / f"{name[0]}{name[1]}.mp4", scene(*name)) for name in names}


def prints_of(paths):
    prints, seconds = [], []
    for path in paths:
        with open_video(path) as reader:
            prints.append(video_fingerprint(reader))
            seconds.append(reader.info.duration_sec)
    return np.stack(prints), np.array(seconds)


def smaller(film):
    return np.ascontiguousarray(film[:, ::2, ::2])


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (lambda film: film, {"crf": 33}),
        (smaller, {}),
        (lambda film: (film * 0.8 + 20).astype(np.uint8), {"codec": "mpeg4"}),
        (lambda film: film[::2], {"rate": 12.5}),
    ],
    ids=["worse", "smaller", "darker_in_another_codec", "half_the_frames"],
)
def test_a_copy_is_near_its_own_video_and_far_from_all_others(films, tmp_path, change, settings):
    settings = {**settings, "rate": Fraction(settings.get("rate", 25))}
    other = write(tmp_path / "copy.mp4", change(scene(1, 2)), **settings)
    prints, seconds = prints_of([*films.values(), other])
    apart = distance(prints[-1], prints[:-1]).mean(axis=1)
    place = list(films).index((1, 2))
    assert apart[place] < COPY_DISTANCE < np.delete(apart, place).min()
    assert copies(prints, seconds).tolist() == [[place, len(films)]]


def test_the_scene_alone_does_not_make_a_copy_nor_does_the_film_with_another_length(films):
    prints, seconds = prints_of(films.values())
    assert len(copies(prints, seconds)) == 0
    assert len(copies(np.concatenate([prints, prints[:1]]), np.append(seconds, 10.0))) == 0


def test_blank_pictures_are_copies_of_nothing():
    black = np.zeros((2, 40, 60, 3), np.uint8)
    film = scene(0, 0)[:2]
    blank, shown = fingerprint(black), fingerprint(film)
    assert blank.shape == (2, WORDS)
    assert blank.dtype == np.uint64
    assert not blank.any()
    assert np.isnan(distance(blank, blank)).all()
    assert distance(blank, shown).tolist() == [0.5, 0.5]
    assert copies(np.stack([blank, blank]), np.ones(2)).tolist() == []
    one_black = np.stack([np.concatenate([blank[:1], shown[1:]])] * 2)  # fades in
    assert copies(one_black, np.ones(2)).tolist() == [[0, 1]]


def test_pictures_of_one_pixel_and_videos_of_one_frame_have_fingerprints(tmp_path):
    assert not fingerprint(np.full((1, 1, 1, 3), 200, np.uint8)).any()
    path = write(tmp_path / "one.mp4", scene(0, 1, frames=1))
    (prints,), _ = prints_of([path])
    assert (prints == prints[0]).all()
    assert distance(prints[0], fingerprint(scene(0, 1, frames=1))[0]) < COPY_DISTANCE


def test_the_first_sign_is_that_of_the_lowest_wave():
    wave = 100 * np.cos(np.pi * (np.arange(96) + 0.5) / 96)  # bright left, dark right
    left = np.broadcast_to((128 + wave)[None, None, :, None], (1, 64, 96, 3)).astype(np.uint8)
    signs = [
        np.unpackbits(fingerprint(picture).view(np.uint8), axis=1)[0, 0]
        for picture in (left, left[:, :, ::-1])
    ]
    assert signs == [1, 0]


def test_ties_go_on_through_others():
    assert tied(6, np.array([[4, 5], [0, 2], [2, 5]])).tolist() == [0, 1, 0, 3, 0, 0]
    assert tied(2, np.empty((0, 2), np.int64)).tolist() == [0, 1]
