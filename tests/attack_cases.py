"""Answers that try to run code where they are graded, and a process that grades them under an audit hook.

Run as a script it grades attacks and plain answers with every reward and prints, as JSON, which events of the
interpreter and which calls of sympy's evaluators there were. Attacks leave a mark where they succeed: a file,
an environment variable, or a connection.
"""

import json
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

VARIABLE = "FOVEAL_CANARY"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A truth, a completion and a problem's other fields, of which at least one holds code."""

    kind: str
    gold: str
    completion: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Where attacks leave their marks."""

    file: Path
    port: int

    def codes(self) -> tuple[str, ...]:
        """Python expressions, each of which leaves one."""
        return (
            f"__import__('os').system('touch {self.file}')",
            f"__import__('os').environ.__setitem__('{VARIABLE}','1')",
            f"__import__('socket').create_connection(('127.0.0.1',{self.port}))",
            f"open('{self.file}','w')",
            f"__import__('subprocess').Popen(['touch','{self.file}'])",
            "[c for c in ().__class__.__base__.__subclasses__() if c.__name__=='Popen']"
            f"[0](['touch','{self.file}'])",
            f"exec(\"import os;os.system('touch {self.file}')\")",
            f"getattr(__import__('builtins'),'ev'+'al')('open(\"{self.file}\",\"w\")')",
        )


def octal(code: str) -> str:
    r"""The code in octal escapes, written so that pylatexenc gives the backslashes."""
    return "".join(f"\\textbackslash{{}}{ord(c):03o}" for c in code)


def by_subscripts(code: str) -> str:
    """A Python expression that has a shell run `code`, without quotes and without a call: assignments in
    list comprehensions put functions where subscripts call them."""
    holder = "exit.__class__"

    def put(name: str, value: str) -> str:
        return f"[0for[{holder}.{name}]in[[{value}]]]"

    def text(value: str) -> str:
        return "+".join(f"exit[{ord(c)}]" for c in value)

    steps = [put("__getitem__", "chr"), put("c", text("os")), put("d", text(code))]
    steps += [put("__getitem__", "__import__"), put("m", "exit[exit.c]"), put("__getitem__", "exit.m.system")]
    return "[" + ",".join([*steps, "exit[exit.d]"]) + "][0]"


def boxed(answer: str) -> str:
    return f"<think>so</think> \\boxed{{{answer}}}"


def known_attacks(marks: Marks) -> tuple[Attack, ...]:
    """Those that ran code in earlier versions, whatever was on the other side."""
    code = marks.codes()[0]
    found = [
        Attack(kind="octal in a gold", gold=f"frac('{octal(code)}')", completion=boxed("1/3x")),
        Attack(
            kind="sum of a text",
            gold="5x",
            completion=boxed(summed("text", by_subscripts(f"touch {marks.file}"))),
        ),
        Attack(
            kind="sum of mathrm",
            gold="5",
            completion=boxed(summed("mathrm", by_subscripts(f"touch {marks.file}"))),
        ),
    ]
    found += [
        Attack(kind=f"octal in {name}", gold="1/2", completion=boxed(f"{name}('{octal(code)}')"))
        for name in ("re", "im", "ln")
    ]
    return tuple(found)


def summed(command: str, name: str) -> str:
    return rf"\sum_{{n=0}}^{{\infty}} (\{command}{{{name}}}^n/n!)"


CALLS = ("re", "im", "ln", "frac", "sqrt", "csc", "fu", "ff", "id", "all", "Symbol", "sympify", "S", "Lambda")
OUTER = (
    "{0}", "${0}$", "$${0}$$", "\\({0}\\)", "1+{0}", "x={0}", "({0},1)", "\\{{1,{0}\\}}", "[{0},2)",
    "\\text{{{0}}}", "\\mathrm{{{0}}}", "\\mathbf{{{0}}}", "\\operatorname{{{0}}}(x)",
    "\\variable{{{0}}}", "x_{{{0}}}", "x^{{{0}}}", "\\frac{{{0}}}{{2}}", "\\sqrt{{{0}}}",
    "\\begin{{pmatrix}}{0}&1\\\\2&3\\end{{pmatrix}}", "\\gcd({0},2)", "\\det {0}",
    "\\lim_{{x\\to {0}}} x", "\\int_0^{{{0}}} x dx", "{0} cm^2", "{0}%", "{0} million", "A. {0}",
    "({0})", "3or({0})", "lambda: {0}", "f'{{{0}}}'", "0.5[{0}]", "{0}!", "1 if {0} else 2",
    "2 \\times 10^{{{0}}}", "{{{{ {0} }}}}", "${{{0}}}", "`{0}`", "$({0})", "%({0})s", "\\input{{{0}}}",
    "\\write18{{{0}}}", "{0}°", "√{0}", "1:{0}", "{0}|x", "(x:={0})", "print({0})", "\\overline{{{0}}}",
    "|{0}|", "x==({0})", "\\boxed{{{0}}}",
)  # fmt: skip


GOLDS = ("1/2", "5x", "x+1", "3.25", "B", "(1,2)", "\\frac{1}{3}", "12 cm", "2024-01-02", "yes")


def generated(seed: int, count: int, marks: Marks) -> Iterator[Attack]:
    """Attacks made at random: a payload, a spelling of it, a formula around it, a place."""
    draw = random.Random(seed)
    payloads = (*marks.codes(), by_subscripts(f"touch {marks.file}"))
    for number in range(count):
        code = draw.choice(payloads)
        answer = spelled(code, draw)
        for _ in range(draw.randint(1, 2)):
            answer = draw.choice(OUTER).format(answer)
        place = draw.choice(("gold", "completion", "both", "choices", "last line", "question"))
        gold = draw.choice(
            ("1/2", "5x", "x+1", "3.25", "B", "(1,2)", "\\frac{1}{3}", "12 cm", "2024-01-02", "yes")
        )
        meta: dict[str, Any] = {}
        completion = boxed(answer)
        if place == "gold":
            gold, completion = answer, boxed(gold)
        elif place == "both":
            gold = answer + "+1"
        elif place == "choices":
            gold, completion, meta = (
                "B",
                boxed("B"),
                {"choices": {"A": "1", "B": answer}, "options": ["1", answer]},
            )
        elif place == "last line":
            completion = f"<think>so</think> The answer is {answer}"
        elif place == "question":
            gold, meta = "1/2", {"question": answer, "family": answer, "asked": answer, "scene": answer}
        yield Attack(kind=f"{number}: {place}", gold=gold, completion=completion, meta=meta)


def spelled(code: str, draw: random.Random) -> str:
    """The code as it is, or hidden in a string that something may evaluate."""
    escapes: tuple[Callable[[str], str], ...] = (
        octal,
        lambda text: "".join(f"\\{ord(c):03o}" for c in text),
        lambda text: "".join(f"\\x{ord(c):02x}" for c in text),
        lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
        lambda text: text,
    )
    style = draw.randrange(6)
    if style == 0:
        return code
    if style == 1:  # full-width letters, which Python reads as plain ones in names
        return "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in code)
    if style == 2:
        return summed(draw.choice(("text", "mathrm", "mathit", "textbf", "mbox")), code)
    if style == 3:
        return "+".join(f"chr({ord(c)})" for c in code[:40])
    opening, closing = draw.choice((("'", "'"), ('"', '"'), ("'''", "'''"), ("r'", "'"), ("f'", "'")))
    return f"{draw.choice(CALLS)}({opening}{draw.choice(escapes)(code)}{closing})"


PLAIN = (
    ("12", "12.0"), ("1/2", "0.5"), ("x+1", "1+x"), ("0.5x", "\\frac{x}{2}"),
    ("2\\sqrt{3}", "\\sqrt{12}"), ("2\\sqrt{3}", "3.4641"), ("50\\%", "0.5"), ("1,234", "1234"),
    ("(0.5,1)", "(\\frac12,1)"), ("x=0.5", "2x=1"), ("9\\pi", "28.27"), ("\\{1,2\\}", "\\{2,1\\}"),
    ("[0,1)\\cup(2,3)", "[0,1)"), ("x>0.5", "0.5<x"), ("5!", "120"), ("\\log_2 8", "3"),
    ("3+2i", "2i+3"), ("0.1x+0.2x", "0.3x"), ("\\sin^2 x+\\cos^2 x", "1"),
    ("\\begin{pmatrix}1&0.5\\\\2&3\\end{pmatrix}", "\\begin{pmatrix}1&1/2\\\\2&3\\end{pmatrix}"),
    ("B", "(B) 12"), ("1.5e-3", "0.0015"), ("7 3/4", "31/4"), ("30^\\circ", "30"), ("n!", "n(n-1)!"),
    ("sqrt(2)x", "x*sqrt(2)"), ("ln(2)", "\\ln 2"), ("1.4142135623731", "\\sqrt2"),
    ("x^2+2x+1", "(x+1)^2"), ("x^5-x=1", "x^5=x+1"), ("1<x<2", "(1,2)"), ("2:3", "4:6"),
    ("5 cm", "50 mm"), ("2024-01-02", "January 2, 2024"), ("\\binom52", "10"), ("\\max(1,2)", "2"),
    ("|x|", "\\left|x\\right|"), ("3\\times10^8", "300000000"), ("\\infty", "∞"),
    ("x^{2.5}", "x^2\\sqrt{x}"), ("0.333333", "1/3"), ("12.5\\%", "1/8"), ("y=\\frac12x+3", "y=0.5x+3"),
)  # fmt: skip
"""Answers as people write them, of each kind that takes a path of its own."""


# What follows runs in a process of its own.

WATCHED = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.putenv",
    "os.remove", "os.rename", "os.kill", "pty.spawn", "subprocess.Popen", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "ctypes.dlopen", "shutil.rmtree", "pickle.find_class",
    "marshal.loads",
)  # fmt: skip


class TooSlow(BaseException):
    """A call that took longer than a test wants to wait."""


class Recorder:
    """Remembers what the interpreter does while it is on."""

    def __init__(self) -> None:
        self.on, self.seen, self.evaluated = False, list[str](), list[str]()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in WATCHED or event in ("exec", "compile") or (event == "open" and writes(arguments)):
            self.on = False
            if not excused(sys._getframe()):
                what = arguments[0].co_filename if isinstance(arguments[0], CodeType) else arguments[:2]
                self.seen.append(f"{event} {what!r}"[:200])
            self.on = True

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if self.on and not excused(sys._getframe()):
                self.evaluated.append(f"{name} {arguments[:1]!r}"[:200])
            return function(*arguments, **settings)

        return call


def writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def excused(frame: FrameType | None) -> bool:
    """Whether a module is being imported, or sympy writes the arithmetic of monomials of so many variables
    from a template that holds nothing of an answer."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib") or file.endswith("sympy/polys/monomials.py"):
            return True
        frame = frame.f_back
    return False


def every_reward(names: Sequence[str]) -> dict[str, Any]:
    """The rewards that grade by rules, as a config names them."""
    from foveal.rewards import REGISTRY
    from foveal.spec import build_component

    return {name: build_component(name, REGISTRY, kind="reward") for name in names}


def main(seed: int, count: int, file: str, port: int, names: str) -> None:
    """Grade and print the report."""
    import sympy
    import sympy.parsing.sympy_parser as parser

    from foveal.types import Problem

    warnings.simplefilter("ignore")
    recorder = Recorder()
    for name in ("parse_expr", "eval_expr", "stringify_expr"):
        setattr(parser, name, recorder.wrapped(name, getattr(parser, name)))
    lambdify = sys.modules["sympy.utilities.lambdify"]
    setattr(lambdify, "lambdify", recorder.wrapped("lambdify", sympy.lambdify))  # noqa: B010
    sys.addaudithook(recorder.audit)

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGVTALRM, stop)
    marks = Marks(file=Path(file), port=port)
    plain = [
        Attack(kind=f"plain {gold}", gold=one, completion=boxed(two))
        for gold, answer in PLAIN
        for one, two in ((gold, answer), (answer, gold))
    ]
    attacks = [*known_attacks(marks), *generated(seed, count, marks)]
    rewards = every_reward(names.split(","))
    graded, slow, values = 0, list[str](), dict[str, int]()
    for case in [*plain, *attacks]:
        problem = Problem(id="p", question="q", images=(), answer=case.gold, meta=case.meta)
        for name, reward in rewards.items():
            recorder.on = True
            signal.setitimer(signal.ITIMER_VIRTUAL, 4.0)
            try:
                value = reward(problem, case.completion)
                values[name] = values.get(name, 0) + (value is not None)
            except TooSlow:
                slow.append(f"{name}: {case.gold} / {case.completion}"[:300])
            except Exception as error:
                recorder.seen.append(f"{name} raised {type(error).__name__} on {case.kind}: {error}"[:300])
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
                recorder.on = False
            graded += 1
    report = {
        "attacks": len(attacks), "graded": graded, "slow": slow, "values": values,
        "events": recorder.seen, "evaluated": recorder.evaluated, "variable": os.environ.get(VARIABLE),
    }  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
