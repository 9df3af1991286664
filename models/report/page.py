"""The page. It asks no network for anything, has no script, and says the same whenever the facts are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import numpy as np

from models.display import measured
from models.report.facts import Facts
from models.report.picture import data_uri
from models.report.plot import bars, curves
from models.report.style import CSS
from models.spec import FRAMEWORKS, NATIVE, TRANSPLANTED

TITLES = {"tensorflow": "TensorFlow", "pytorch": "PyTorch"}
NATIVELY, MOVED = str(NATIVE), str(TRANSPLANTED)


def render(facts: Facts) -> str:
    models = facts["models"]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The documented models</title><style>{CSS}</style></head>\n<body>\n"
        f"{introduction(facts)}\n{overview(models)}\n" + "\n".join(map(section, models)) + "\n</body></html>\n"
    )


def introduction(facts: Facts) -> str:
    tolerance = facts["tolerance"]
    libraries = ", ".join(f"{escape(name)} {escape(version)}" for name, version in facts["libraries"].items())
    return (
        "<h1>The documented models, in both frameworks</h1>"
        "<p>Version 1 is trained natively in each framework, from the same weights, with the same batches in the same "
        "order. Version 2 is PyTorch’s version 1 in both, so that both servers compute the same function. Two "
        f"answers are the same when they differ by no more than {tolerance['absolute']:g} and "
        f"{tolerance['relative']:g} of the value and {tolerance['row']:g} of the greatest value beside it; "
        "<i>of tolerance</i> is the greatest difference as a share of that, and <i>relative</i> leaves out values "
        "below a thousandth of the greatest."
        f'</p><p class="soft">{libraries}. Seed {", ".join(map(str, facts["seeds"])) or "none"}.</p>{key()}'
    )


def key() -> str:
    swatch = '<svg viewBox="0 0 32 10" aria-hidden="true"><line class="line {0}" x1="0" x2="32" y1="5" y2="5"/></svg>'
    return "".join(f'<span class="key">{swatch.format(name)}{TITLES[name]}</span>' for name in FRAMEWORKS)


def overview(models: Iterable[Facts]) -> str:
    """The frameworks side by side, a model a row."""
    both = "".join(f'<th colspan="2" class="both">{title}</th>' for title in ("held out", "time per epoch", "artifact"))
    head = f'<tr><th rowspan="2">model</th><th rowspan="2">parameters</th>{both}<th colspan="2">version 2</th></tr>'
    under = row('th class="under"', ["TF", "PyTorch"] * 3 + ["of tolerance", ""])
    body = "".join(row("td", overview_cells(model)) for model in models)
    return scrolled(head + under, body)


def overview_cells(model: Facts) -> list[str]:
    records = model["versions"][NATIVELY]
    one = next((record for record in records.values() if record), None)
    return [
        f'<a href="#{escape(model["name"])}">{escape(model["name"])}</a>',
        f"{one['parameters']:,}" if one else "–",
        *(cell(records[name], held_out) for name in FRAMEWORKS),
        *(cell(records[name], time_per_epoch) for name in FRAMEWORKS),
        *(cell(records[name], size) for name in FRAMEWORKS),
        of_tolerance(model["parity"][MOVED]),
        verdict(model["parity"][MOVED]),
    ]


def section(model: Facts) -> str:
    return (
        f'<section id="{escape(model["name"])}"><h2>{escape(model["name"])}</h2>'
        f"<p>{escape(model['description'])}</p>"
        f"<p><code>{signature(model['inputs'])} → {signature(model['outputs'])}</code></p>"
        f"{problems(model)}"
        f'<div class="pair"><div><h3>Training loss</h3>{loss(model)}</div>'
        f"<div><h3>Training</h3>{training(model)}<h3>Both frameworks on the same inputs</h3>{parity(model)}</div></div>"
        f"{shown(model['samples'])}</section>"
    )


def signature(tensors: Iterable[Facts]) -> str:
    return ", ".join(escape(f"{one['name']} {one['datatype']} {one['shape']}") for one in tensors)


def problems(model: Facts) -> str:
    found = [problem for parity in model["parity"].values() for problem in parity["problems"]]
    return "".join(f'<p class="problem">{escape(problem)}</p>' for problem in found)


def loss(model: Facts) -> str:
    records = model["versions"][NATIVELY]
    series = {name: records[name]["loss"] for name in FRAMEWORKS if records[name] and "loss" in records[name]}
    return curves(series, title=f"Training loss of {model['name']} by epoch") if series else "<p>Not trained.</p>"


def training(model: Facts) -> str:
    records = model["versions"][NATIVELY]
    lines: list[tuple[str, Callable[[Facts], str]]] = [
        (model["measure"].replace("_", " ") + f" (bar {model['bar']:g})", held_out),
        ("time per epoch", time_per_epoch),
        ("epochs", lambda record: str(record["epochs"])),
        ("seed", lambda record: str(record["seed"])),
        ("data", lambda record: escape(record["dataset"])),
        ("rows, trained on and held out", rows_of_data),
        ("parameters", lambda record: f"{record['parameters']:,}"),
        ("artifact", size),
    ]
    body = "".join(row("td", [title, *(cell(records[name], show) for name in FRAMEWORKS)]) for title, show in lines)
    return scrolled(row("th", ["", *TITLES.values()]), body)


def parity(model: Facts) -> str:
    head = row("th", ["version", "inputs", "absolute", "relative", "of tol.", "top-1"])
    body = "".join(
        row("td", [version, str(one["rows"]), *differences(one)]) for version, one in model["parity"].items()
    )
    return scrolled(head, body)


def differences(parity: Facts) -> list[str]:
    found = parity["difference"]
    if found is None:
        return ["–"] * 4
    top1 = found["top1_agreement"]
    figures = [f"{found[name]:.2g}" for name in ("max_absolute", "max_relative", "of_tolerance")]
    return [*figures, "–" if top1 is None else f"{top1:.1%}"]


def of_tolerance(parity: Facts) -> str:
    return differences(parity)[2]


def verdict(parity: Facts) -> str:
    if not parity["fingerprints"]:
        return "not trained"
    if parity["problems"]:
        return '<span class="bad">fails</span>'
    return '<span class="good">equal</span>' if parity["difference"]["within_tolerance"] else "–"


def cell(record: Facts | None, show: Callable[[Facts], str]) -> str:
    return "–" if record is None else show(record)


def held_out(record: Facts) -> str:
    return f'<span class="{"good" if record["meets_bar"] else "bad"}">{escape(measured(record).split(" ")[-1])}</span>'


def time_per_epoch(record: Facts) -> str:
    """
    >>> time_per_epoch({"seconds_per_epoch": 0.0287})
    '28.7 ms'
    """
    if "seconds_per_epoch" not in record:
        return "–"
    seconds = record["seconds_per_epoch"]
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def rows_of_data(record: Facts) -> str:
    return f"{record['rows']['train']:,} + {record['rows']['held_out']:,}"


def size(record: Facts) -> str:
    """
    >>> size({"artifact_bytes": 11_110_385})
    '11.1 MB'
    """
    count = record["artifact_bytes"]
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def scrolled(head: str, body: str) -> str:
    """A table that a narrow screen scrolls sideways, without the page."""
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def row(kind: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind.split()[0]}>" for cell in cells) + "</tr>"


def shown(samples: list[Facts]) -> str:
    if not samples:
        return ""
    title, show = KINDS[samples[0]["kind"]]
    return f"<h3>{title}</h3>{show(samples)}"


def pictures(samples: list[Facts]) -> str:
    return f'<div class="samples">{"".join(map(picture, samples))}</div>'


def picture(sample: Facts) -> str:
    answers = "".join(f"<br>{answer(sample, name)}" for name in sample["answer"])
    return (
        f"<figure>{image(sample, 'a handwritten ' + sample['truth'])}"
        f"{bars(sample['scores'], title='probability of each class')}"
        f"<figcaption>true {escape(sample['truth'])}{answers}</figcaption></figure>"
    )


def answer(sample: Facts, framework: str) -> str:
    given = sample["answer"][framework]
    right = "" if given == sample["truth"] else ' class="bad"'
    return f"{TITLES[framework]} <span{right}>{escape(str(given))}</span>"


def image(sample: Facts, description: str) -> str:
    return f'<img src="{data_uri(np.array(sample["pixels"]))}" alt="{escape(description, quote=True)}">'


def made_pictures(samples: list[Facts]) -> str:
    return "".join(
        f'<p class="soft">{TITLES[name]}</p><div class="samples">'
        + "".join(
            f"<figure>{image(one, 'a generated picture')}</figure>" for one in samples if one["framework"] == name
        )
        + "</div>"
        for name in dict.fromkeys(one["framework"] for one in samples)
    )


def texts(samples: list[Facts]) -> str:
    frameworks = list(samples[0]["answer"])
    head = row("th", ["text", "true", *(TITLES[name] for name in frameworks)])
    body = "".join(
        "<tr>"
        f'<td class="wrap">{escape(one["text"])}</td><td>{escape(one["truth"])}</td>'
        + "".join(f"<td>{judged(one, name)}</td>" for name in frameworks)
        + "</tr>"
        for one in samples
    )
    return scrolled(head, body)


def judged(sample: Facts, framework: str) -> str:
    given, right = sample["answer"][framework], sample["answer"][framework] == sample["truth"]
    return f'<span class="{"good" if right else "bad"}">{escape(given)}</span> {sample["score"][framework]:.0%}'


def numbers(samples: list[Facts]) -> str:
    frameworks = list(samples[0]["answer"])
    head = row("th", ["input", "true", *(TITLES[name] for name in frameworks)])
    body = "".join(
        row("td", [features(one["inputs"]), f"{one['truth']:g}", *(f"{one['answer'][name]:g}" for name in frameworks)])
        for one in samples
    )
    return scrolled(head, body)


def features(values: list[float]) -> str:
    """The first few of many."""
    few = ", ".join(f"{value:.4g}" for value in values[:4])
    return few if len(values) <= 4 else f"{few}, … ({len(values)})"


def written_texts(samples: list[Facts]) -> str:
    return "".join(
        f'<p class="soft">{TITLES[one["framework"]]}</p>'
        f"<pre><b>{escape(one['prompt'])}</b>{escape(one['text'][len(one['prompt']) :])}</pre>"
        for one in samples
    )


KINDS: dict[str, tuple[str, Callable[[list[Any]], str]]] = {
    "picture": ("Held-out pictures, and the probability of each class", pictures),
    "made picture": ("Made from the same latents", made_pictures),
    "text": ("Held-out texts", texts),
    "numbers": ("Held-out rows", numbers),
    "written text": ("Written, letter by letter", written_texts),
}
