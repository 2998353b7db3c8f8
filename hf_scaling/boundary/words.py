"""A boundary in words."""


def describe(boundary) -> str:
    """The verdict, both answers, the table of differences and the notes, as text for a terminal."""
    unit = "FLOPs" if boundary.x == "train_flops" else "images"
    sizes = ", ".join(f"{name} {value:.4g}" for name, value in boundary.sizes.items())
    lines = [_verdict(boundary, unit) + (f" (at {sizes})" if sizes else "")]
    free = boundary.law_free
    if 0 < free["n_pretrain"] < float("inf"):
        ends = f" [{free['low']:.4g}, {free['high']:.4g}]" if free["low"] == free["low"] else ""
        lines.append(f"from the paired differences alone: {free['n_pretrain']:.4g}{ends} {unit}")
    else:
        lines.append("from the paired differences alone: no crossing inside the measured sizes")
    if boundary.teacher_not_counted is not None:
        lines.append("without the teacher's FLOPs: " + _verdict(boundary.teacher_not_counted, unit))
    lines += ["", boundary.difference.to_string(index=False, float_format=lambda v: f"{v:.4g}"), ""]
    return "\n".join(lines + [f"[{n['grade']}] {n['code']}: {n['text']}" for n in boundary.notes])


def _verdict(boundary, unit: str) -> str:
    level = f"{boundary.level:.0%}"
    if boundary.status == "crossing":
        ends = f"{level} [{boundary.low:.4g}, {boundary.high:.4g}]"
        return f"crossing: distillation stops paying at {boundary.n_pretrain:.4g} {unit}, {ends}"
    return {
        "distillation_always": "distillation_always: the teacher helps at every measured size",
        "distillation_never": "distillation_never: the teacher holds back at every measured size",
        "not_resolved": "not_resolved: these runs cannot tell where, or whether, distillation stops paying",
    }[boundary.status]
