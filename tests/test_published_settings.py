"""Every recipe of a paper against what the paper's code was run with (published_settings.yaml), setting by setting.

`python tests/test_published_settings.py` writes the table as docs/published.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from video_ssl.pretrain.durations import parse_duration
from video_ssl.pretrain.recipe import PretrainRecipe, load_pretrain_recipe, recipe_to_dict
from video_ssl.recipes import list_recipes, load_yaml

FACTS = Path(__file__).with_name("published_settings.yaml")
PAGE = Path(__file__).parents[1] / "docs" / "published.md"
#: Recipes of no paper: the generated videos, people's own videos, and classification with labels.
OWN = ("demo", "/small", "supervised/finetune", "supervised/zoo")
#: What every recipe must have a fact about, so that no gap passes for agreement; one of sounds has no crop.
ALWAYS = (
    *("training.duration", "training.global_batch_size", "training.precision", "peak_lr"),
    *("optimizer.name", "optimizer.weight_decay", "optimizer.warmup", "optimizer.schedule"),
    *("objective.crop.kind", "objective.crop.size", "objective.crop.flip_probability"),
)
HEAD = """# Published settings and ours

Every recipe of a paper beside what the paper's code was run with. The facts are in `tests/published_settings.yaml`,
each recipe's with their source; a test compares them with the resolved recipes, so that neither drifts unseen
(`tests/test_published_settings.py`, which also writes this page). What these settings gave the authors stands in the
recipes' heads; none of these recipes was trained here.

Settings are those of `video-ssl pretrain RECIPE`; `peak_lr` and `final_lr` are the rates in effect. **Bold**: ours
departs, and why. A recipe that is "like" another one lists only what differs from it.
"""


def facts() -> dict[str, dict[str, Any]]:
    content = load_yaml(FACTS)
    assert isinstance(content, dict)
    return {str(name): dict(entry) for name, entry in content.items()}


def paper_recipes() -> list[str]:
    names = list_recipes("pretrain")
    return sorted(n for n in names if not any(part in n for part in OWN))


def published_of(name: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Setting -> published value, those of `like` included."""
    entry = known[name]
    found = published_of(entry["like"], known) if "like" in entry else {}
    return {
        k: v
        for k, v in {**found, **entry.get("published", {})}.items()
        if k not in entry.get("drop", ())
    }


def departures_of(name: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Any, str]]:
    """Setting -> (our value, why), those of `like` included unless the setting is stated anew."""
    entry = known[name]
    found = departures_of(entry["like"], known) if "like" in entry else {}
    own = {k: (v[0], v[1]) for k, v in entry.get("ours", {}).items()}
    return {k: v for k, v in found.items() if k not in entry.get("published", {})} | own


def resolved(recipe: PretrainRecipe) -> dict[str, Any]:
    """Every setting of a recipe by its dotted key, groups of settings too, and the rates in effect."""
    settings = dict(_walk(recipe_to_dict(recipe)))
    rates = recipe.optimizer.rates(
        global_batch_size=recipe.training.global_batch_size,
        clips_per_record=recipe.objective.clips_per_record,
    )
    settings |= {"peak_lr": rates["base_lr"], "final_lr": rates["min_lr"]}
    if recipe.optimizer.schedule == "constant":
        settings["final_lr"] = settings["peak_lr"]
    return settings


def _walk(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        yield prefix + key, value
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{key}.")


def same(setting: str, a: Any, b: Any) -> bool:
    """Numbers up to their last bits, durations by their length, everything else as it is."""
    if setting in ("training.duration", "optimizer.warmup"):
        return parse_duration(a) == parse_duration(b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same("", x, y) for x, y in zip(a, b, strict=True))
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return math.isclose(a, b, rel_tol=1e-9) if numbers else a == b


def test_every_recipe_of_a_paper_has_its_facts() -> None:
    assert set(facts()) == set(paper_recipes())


@pytest.mark.parametrize("name", paper_recipes())
def test_recipes_are_as_published(name: str) -> None:
    known = facts()
    entry = known[name]
    if "unpublished" in entry:
        assert entry["unpublished"]
        return
    assert entry["source"]
    settings = resolved(load_pretrain_recipe(name))
    published, departures = published_of(name, known), departures_of(name, known)
    sees = "objective.crop" in settings
    assert {k for k in ALWAYS if sees or not k.startswith("objective.crop.")} <= set(published)
    wrong = []
    for setting, value in published.items():
        wanted = departures[setting][0] if setting in departures else value
        if setting not in settings:
            wrong.append(f"{setting}: there is no such setting")
        elif not same(setting, settings[setting], wanted):
            wrong.append(f"{setting}: {settings[setting]!r}, expected {wanted!r}")
    assert not wrong, f"{name} is not as {FACTS.name} says ({entry['source']}): {'; '.join(wrong)}"
    # A departure that is none any more would hide the next drift.
    idle = [k for k, (ours, _) in departures.items() if same(k, ours, published.get(k))]
    assert not idle
    assert all(why for _, why in departures.values())


def test_a_drift_is_seen() -> None:
    recipe = load_pretrain_recipe("videomae/vit_s_ssv2", ["training.global_batch_size=1024"])
    published = published_of("videomae/vit_s_ssv2", facts())
    settings = resolved(recipe)
    wrong = {k for k, v in published.items() if not same(k, settings[k], v)}
    assert wrong - {"objective.crop.resize", "training.precision"} == {
        "training.global_batch_size",
        "peak_lr",
        "final_lr",
    }


# The page -----------------------------------------------------------------------------------------


def render() -> str:
    known = facts()
    lines = [HEAD]
    for name in sorted(known, key=lambda n: (n.split("/")[0], list(known).index(n))):
        lines += [f"## {name}", ""]
        if "unpublished" in known[name]:
            lines += [f"Not published: {known[name]['unpublished']}.", ""]
            continue
        like = f" Like `{known[name]['like']}`, but:" if "like" in known[name] else ""
        lines += [f"From {known[name]['source']}.{like}", ""]
        rows = list(_rows(name, known))
        if rows:
            lines += ["| setting | published | ours |", "|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _rows(name: str, known: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    entry, published = known[name], published_of(name, known)
    departures, settings = departures_of(name, known), resolved(load_pretrain_recipe(name))
    for setting in dict.fromkeys([*entry.get("published", {}), *entry.get("ours", {})]):
        ours = _text(settings[setting])
        if setting in departures:
            ours = f"**{ours}**: {departures[setting][1]}"
        yield f"| `{setting}` | {_text(published[setting])} | {ours} |"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_text(own)}" for key, own in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def test_the_page_is_that_of_the_facts() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), f"run: python {Path(__file__).name}"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
