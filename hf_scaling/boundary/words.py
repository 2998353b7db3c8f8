"""A boundary in words."""


def describe(boundary) -> str:
    """The verdict, both answers, the table of differences and the notes, as text for a terminal."""
    unit = "FLOPs" if boundary.x == "train_flops" else "images"
    sizes = ", ".join(f"{name} {size_in_words(value)}" for name, value in boundary.sizes.items())
    lines = [_verdict(boundary, unit) + (f" (at {sizes})" if sizes else "")]
    free = boundary.law_free
    if 0 < free["n_pretrain"] < float("inf"):
        ends = f" [{size_in_words(free['low'])}, {size_in_words(free['high'])}]" if free["low"] == free["low"] else ""
        lines.append(f"from the paired differences alone: {size_in_words(free['n_pretrain'])}{ends} {unit}")
    else:
        lines.append("from the paired differences alone: no crossing inside the measured sizes")
    if boundary.teacher_not_counted is not None:
        lines.append("without the teacher's FLOPs: " + _verdict(boundary.teacher_not_counted, unit))
    table = boundary.difference.to_string(
        index=False, float_format=lambda value: f"{value:.4g}", formatters={boundary.x: size_in_words}
    )
    lines += ["", table, ""]
    return "\n".join(lines + [f"[{n['grade']}] {n['code']}: {n['text']}" for n in boundary.notes])


def _verdict(boundary, unit: str) -> str:
    level = f"{boundary.level:.0%}"
    if boundary.status == "crossing":
        ends = f"{level} [{size_in_words(boundary.low)}, {size_in_words(boundary.high)}]"
        return f"crossing: distillation stops paying at {size_in_words(boundary.n_pretrain)} {unit}, {ends}"
    return {
        "distillation_always": "distillation_always: the teacher helps at every measured size",
        "distillation_never": "distillation_never: the teacher holds back at every measured size",
        "not_resolved": "not_resolved: these runs cannot tell where, or whether, distillation stops paying",
    }[boundary.status]


def size_in_words(size: float) -> str:
    """A number of images as a person writes it; above a million (FLOPs, say) by its power of ten; four digits."""
    return f"{float(f'{size:.4g}'):,.0f}" if 10 <= size < 1e6 else f"{size:.4g}"
