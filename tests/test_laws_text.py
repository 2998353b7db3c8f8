"""Formulas as text: parsed or refused, printed, listed, saved."""

import json
import pickle
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from hf_scaling import InputError
from hf_scaling.laws import COLUMNS, LAWS, Law, list_laws
from hf_scaling.laws.catalogue import markdown
from hf_scaling.text import VARIABLES

sys.path.insert(0, str(Path(__file__).parent / "support"))
from law_truths import SUPERVISED, TRUTHS, law_of, sizes

ROOT = Path(__file__).parent.parent

BAD = [
    ("E + A*n_pretrain^-a", 17),
    ("E + A*n_pretrain**", 19),
    ("E + A*(n_pretrain", 7),
    ("E + A n_pretrain", 7),
    ("  E + A*abs(n_pretrain)", 9),
    ("E + A*max(n_pretrain)", 7),
    ("E + A*exp(n_pretrain, 2)", 7),
    ("E + A*log(x=1)", 10),
    ("E + log*n_pretrain", 5),
    ("E + A*n_pretrain if A else 1", 1),
    ("E + (A > n_pretrain)", 6),
    ("E + A//n_pretrain", 6),
    ("E + A % n_pretrain", 7),
    ("E + not A*n_pretrain", 5),
    ("E + ~A*n_pretrain", 5),
    ("E + A*n.pretrain", 7),
    ("E + A*n[0]", 7),
    ("E + (A, n_pretrain)", 5),
    ("E + A*n_pretrain**2000", 19),
    ("E + A*n_pretrain**-9**9**9", 23),
    ("E + A*n_pretrain/0", 18),
    ("E + log(0)*n_pretrain", 5),
    ("E + (-2)**0.5*n_pretrain", 5),
    ("E + 1e400*n_pretrain", 5),
    ("E + 2j*n_pretrain", 5),
    ("E + 'A'*n_pretrain", 5),
    ("E + True*n_pretrain", 5),
    ("E + α*n_pretrain", 5),
    ("E + A*n_pretrain # note", 18),
    ("E + _A*n_pretrain", 5),
    ("E + A*n_pretrain = B = 2", 22),
    ("E + A*n_pretrain = B", 1),
    ("(L - E)/(L0 - L)*L = n_pretrain", 18),
    ("", None),
    ("E + A", None),
    ("2*n_pretrain", None),
]


@pytest.mark.parametrize(("formula", "column"), BAD, ids=[formula for formula, _ in BAD])
def test_a_bad_formula_is_refused_at_its_fault(formula, column):
    with pytest.raises(InputError, match="law 'mine'") as caught:
        Law("mine", formula)
    message = str(caught.value)
    assert "\n" not in message
    assert column is None or f"column {column}:" in message


HOSTILE = {
    "import": "__import__('os').system('true')",
    "attribute": "().__class__.__bases__[0].__subclasses__()",
    "lambda": "(lambda: n_pretrain)()",
    "walrus": "(A := n_pretrain)",
    "comprehension": "[n_pretrain for _ in range(10**9)]",
    "statement": "n_pretrain; import os",
    "string": "'a'*10**9",
    "parentheses": "(" * 900 + "n_pretrain" + ")" * 900,
    "signs": "-" * 1900 + "n_pretrain",
    "calls": "exp(" * 300 + "A*n_pretrain" + ")" * 300,
    "tower": "**".join(["9"] * 600),
    "tower of columns": "A*" + "**".join(["n_pretrain"] * 400),
    "length": "+".join(["n_pretrain"] * 10_000),
    "digits": "A*n_pretrain + " + "9" * 1900,
    "parameters": "*".join(f"(a{i} + n_pretrain)" for i in range(40)),
}


@pytest.mark.parametrize("formula", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_formula_is_refused_and_quickly(formula):
    # A generous limit: what this guards against never ends.
    started = time.monotonic()
    with pytest.raises(InputError):
        Law.from_dict({"name": "theirs", "expression": formula})
    assert time.monotonic() - started < 20


def test_powers_of_powers_are_harmless():
    law = Law.from_dict({"name": "theirs", "expression": "(" * 80 + "A + n_pretrain" + ")**8" * 80})
    assert law.predict({"A": 1.0}, {"n_pretrain": [0.0, 1.0]}).tolist() == [1.0, np.inf]
    assert law.linear == ()


def test_parts_that_double_at_every_step_are_harmless():
    where = {"p0": "n_pretrain + A"}
    where |= {f"p{i}": f"p{i - 1}*p{i - 1}" for i in range(1, 31)}
    law = Law.from_dict({"name": "theirs", "expression": "E + p30", "where": where})
    assert law.predict({"A": 0.5, "E": 1.0}, {"n_pretrain": [0.25]}).tolist() == [1.0]


def test_parts_that_grow_at_every_step_are_refused_and_quickly():
    where = {"p0": "n_pretrain + A"}
    where |= {f"p{i}": f"p{i - 1}*exp(p{i - 1}) + log(p{i - 1})" for i in range(1, 31)}
    law = Law.from_dict({"name": "theirs", "expression": "E + p30", "where": where})
    started = time.monotonic()
    with pytest.raises(InputError, match="theirs"):
        law.predict({"A": 0.5, "E": 1.0}, {"n_pretrain": [0.25]})
    assert time.monotonic() - started < 20


def test_a_deeply_nested_formula_is_harmless():
    law = Law.from_dict({"name": "theirs", "expression": "(" * 48 + "n_pretrain" + "+a)**b" * 48})
    started = time.monotonic()
    value, gradient = law.value_and_gradient({"a": 0.5, "b": 0.5}, {"n_pretrain": [0.25]})
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    assert law.linear == ()
    where = {"p0": "n_pretrain"} | {f"p{i}": "exp(a*" * 45 + f"p{i - 1}" + ")" * 45 for i in range(1, 12)}
    with pytest.raises(InputError, match="theirs"):
        Law("theirs", "E + p11", where=where).predict([0.5, 0.5], {"n_pretrain": [0.25]})
    assert time.monotonic() - started < 20


def test_constants_are_evaluated_and_need_a_finite_value():
    where = {"half": "1/2", "square": "4*half"}
    law = Law("mine", "E + A*n_pretrain**-(half + a)**square", where=where)
    assert law.predict({"E": 0.0, "A": 3.0, "a": 1.5}, {"n_pretrain": [2.0]})[0] == pytest.approx(3 / 16)
    for formula in ("E + A*n_pretrain/none", "E + A*n_pretrain**many"):
        with pytest.raises(InputError, match="column"):
            Law("mine", formula, where={"none": "1 - 1", "many": "10**4"})
    # L is the unknown in an equation alone.
    assert Law("mine", "E + A*(x - L)**2").names == ("E", "A", "L")
    with pytest.raises(InputError, match="mine"):
        Law("mine", "A*x/(x - x)").predict([1.0], {"x": 1.0})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"expression": 3}, "'expression'"),
        ({"surprise": 1}, "'surprise'"),
        ({"bounds": {"alpha": [1]}}, "bounds of alpha"),
        ({"bounds": {"alpha": [2, 1]}}, "bounds of alpha.* 2,"),
        ({"bounds": {"alhpa": [0, 1]}}, "'alhpa'.* alpha"),
        ({"kinds": {"alpha": "slope"}}, "kind of alpha is 'slope'"),
        ({"starts": {"alpha": ["low"]}}, "starts of alpha"),
        ({"variables": "x"}, "'variables'"),
        ({"variables": ["n_finetune"]}, "'n_finetune'"),
        ({"parameters": ["E", "A"]}, "E, A, alpha"),
        ({"where": {"exp": "n_params"}}, "'exp' in `where`"),
        ({"where": {"A": "later", "later": "n_params"}}, "where A.*later"),
        ({"where": {"A": "n_params**"}}, "where A, column 11"),
        ({"name": ""}, "name"),
    ],
)
def test_a_bad_declaration_names_its_field(change, named):
    declaration = {"name": "theirs", "expression": "E + A*n_pretrain**-alpha"} | change
    with pytest.raises(InputError, match=named):
        Law.from_dict(declaration)
    with pytest.raises(InputError, match="'expression'"):
        Law.from_dict({"name": "theirs"})


@pytest.mark.parametrize("name", list(LAWS))
def test_a_law_survives_json_and_pickle(name):
    law = law_of(name)
    again = Law.from_dict(json.loads(json.dumps(law.to_dict(), allow_nan=False)))
    assert again == law
    assert again.parameters == law.parameters
    assert hash(again) == hash(law)
    assert pickle.loads(pickle.dumps(law)) == law
    columns = sizes(law)
    np.testing.assert_array_equal(again.predict(TRUTHS[name], columns), law.predict(TRUTHS[name], columns))
    assert Law.from_dict(law.to_dict() | {"paper": "another"}) != law


def test_a_custom_law_has_all_methods():
    law = Law("mine", "E + A*n_pretrain**-alpha", bounds={"alpha": (0, 2)}, paper="notes")
    assert (law.variables, law.names, law.linear) == (("n_pretrain",), ("E", "A", "alpha"), ("E", "A"))
    assert [(p.kind, p.low, p.high) for p in law.parameters] == [
        ("floor", 0.0, np.inf),
        ("coefficient", 0.0, np.inf),
        ("exponent", 0.0, 2.0),
    ]
    p = {"E": 0.1, "A": 3.0, "alpha": 0.5}
    np.testing.assert_allclose(law.predict(p, {"n_pretrain": [100.0, 10_000.0]}), [0.4, 0.13], rtol=1e-14)
    assert law.invert(p, 0.4, "n_pretrain") == pytest.approx(100.0, rel=1e-12)
    assert law.latex == r"L = E + A\,D_p^{-\alpha}"
    assert law.formula == "E + A*n_pretrain^(-alpha)"


def test_custom_columns_and_named_parts():
    law = Law("mine", "E + A*reach**-a", variables=["width", "depth"], where={"reach": "width*depth**k + x0"})
    assert law.names == ("E", "A", "a", "k", "x0")
    p = {"E": 0.1, "A": 3.0, "a": 0.5, "k": 2.0, "x0": 5.0}
    values = law.predict(p, {"width": [8.0, 16.0], "depth": 4.0})
    np.testing.assert_allclose(values, 0.1 + 3.0 * (np.array([8.0, 16.0]) * 16 + 5) ** -0.5, rtol=1e-14)
    assert law.latex.endswith(r"\mathrm{reach} = \mathrm{width}\,\mathrm{depth}^{k} + x_{0}")


def test_a_custom_equation_is_solved():
    law = Law("mine", "(L - low)*(top - L)**-2 = b/n_pretrain")
    p = {"low": 0.2, "top": 1.0, "b": 1000.0}
    n = np.array([10.0, 1e4, 1e7])
    L = law.predict(p, {"n_pretrain": n})
    np.testing.assert_allclose((L - 0.2) * (1 - L) ** -2.0, 1000.0 / n, rtol=1e-11)
    np.testing.assert_allclose(law.invert(p, L, "n_pretrain"), n, rtol=1e-8)
    assert law.linear == ()


@pytest.mark.parametrize(
    ("formula", "kinds"),
    [
        ("E + A*x**-a", {"E": "floor", "A": "coefficient", "a": "exponent"}),
        ("c + A*(x + x0)**-a", {"c": "coefficient", "x0": "scale of x"}),
        ("E + (d/n_pretrain)**b", {"d": "scale of n_pretrain", "b": "exponent"}),
        ("E + A*exp(-seconds/tau)", {"tau": "scale of seconds", "A": "coefficient"}),
        ("A*log(1 + x/x0)", {"x0": "scale of x"}),
        ("E + A*n_params**(-a*b)", {"a": "exponent", "b": "exponent"}),
        ("E + a*x**-a", {"a": "exponent"}),
    ],
)
def test_kinds_are_inferred_from_the_place_of_a_name(formula, kinds):
    inferred = {p.name: p.kind + (f" of {p.variable}" if p.variable else "") for p in Law("mine", formula).parameters}
    assert {name: inferred[name] for name in kinds} == kinds


def test_an_overflow_that_is_not_selected_leaves_the_gradient_finite():
    law = Law("mine", "E + min(n_params, A*n_pretrain**b)")
    value, gradient = law.value_and_gradient({"E": 0.0, "A": 2.0, "b": 200.0}, {"n_params": 5.0, "n_pretrain": 1e9})
    assert value[0] == pytest.approx(5.0)
    assert gradient[0].tolist() == [1.0, 0.0, 0.0]


def test_the_error_for_an_unknown_law_names_the_nearest_or_all():
    for error in (KeyError, InputError):
        with pytest.raises(error, match="transfer_gap\\?"):
            LAWS["transfergap"]
    with pytest.raises(InputError, match="power_law, shifted_power_law"):
        LAWS["xyz"]
    assert "transfergap" not in LAWS
    assert LAWS.get("transfergap") is None
    assert next(iter(LAWS)) == "power_law"
    assert len(LAWS) == 22


@pytest.mark.parametrize("name", list(LAWS))
def test_latex_is_accepted_by_matplotlib(name):
    from matplotlib.mathtext import MathTextParser

    for law in (LAWS[name], law_of(name)):
        width = MathTextParser("path").parse(f"${law.latex}$").width
        assert width > 50


def test_latex_keeps_the_order_and_the_symbols_of_a_paper():
    assert LAWS["transfer_gap"].latex == r"L = \left(A\,D_p^{-\alpha} + G\right)\,D_f^{-\beta} + E"
    assert LAWS["m4"].latex == r"\frac{L - E}{\left(L_{0} - L\right)^{a}} = b\,x^{-c}"
    # A parameter with the letter of a column keeps it.
    assert Law("mine", "M*n_params**-(a - b) - (x - 2e-7)").latex == (
        r"L = M\,\mathrm{n\_params}^{-(a - b)} - \left(x - 2.0 \cdot 10^{-7}\right)"
    )


def test_the_listing_names_every_law_with_formula_variables_and_paper():
    text = " ".join(list_laws().split())
    for law in LAWS.values():
        assert law.name in text
        assert " ".join(law.formula.split()) in text
        assert law.paper in text
        assert ", ".join(law.variables) in text
    one = list_laws(["rectified"], width=60)
    assert one.startswith("rectified\n")
    assert max(map(len, one.splitlines())) <= 60
    with pytest.raises(InputError, match="rectified\\?"):
        list_laws(["rectifeid"])


def test_the_list_in_the_documentation_is_generated():
    page = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
    head, _, sections = page.partition("\n## The list\n\n")
    assert sections == markdown(), "write hf_scaling.laws.catalogue.markdown() below '## The list' in docs/laws.md"
    for name, column in ((name, COLUMNS[name]) for name in VARIABLES):
        assert f"| `{name}` | ${column.symbol}$ | {column.unit} |" in head


def test_the_formula_of_a_bound_law_includes_the_supervised_part():
    law = LAWS["distillation"].with_supervised(SUPERVISED)
    assert "supervised_loss = 1.22 + (3355.0*n_params^(-0.408)" in law.formula
    assert law.unbound == ()


def test_sympy_is_loaded_when_a_law_is_evaluated_and_not_before():
    code = """
    import sys, hf_scaling as hs
    heavy = ("scipy", "pandas", "torch", "matplotlib", "sympy")
    hs.fit_law, list(hs.LAWS), hs.LAWS["chinchilla"].formula, hs.LAWS["m4"].parameters
    print([name for name in heavy if name in sys.modules])
    hs.LAWS["chinchilla"].predict([1, 1, 1, 1, 1], {"n_params": 1, "n_pretrain": 1})
    print([name for name in heavy if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split("\n")[:2] == ["[]", "['sympy']"]
