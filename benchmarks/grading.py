r"""How many answers a second the default accuracy reward grades, and what the slowest one costs.

Two fixed mixes, in one thread: answers that the rules settle, and formulas that are left to math-verify's
comparison in a worker (matrices, floors, binomials, inequalities). Each verdict is compared with the one that
stands beside the pair. Repeat it as

    python benchmarks/grading.py [--repeats 20] [--out FILE]
"""

import argparse
import time
from collections.abc import Sequence

from lines import end

from foveal.rewards.rules import Boxed
from foveal.rewards.tasks import Task
from foveal.types import Problem

Pair = tuple[str, str, bool]

RULES: tuple[Pair, ...] = (
    ("42", "42", True),
    ("42", "41", False),
    ("1234", "1,234", True),
    ("-5", "−5", True),
    ("0.25", "25\\%", True),
    ("\\frac{1}{2}", "2/4", True),
    ("31/4", "7\\frac{3}{4}", True),
    ("2\\sqrt{3}", "√12", True),
    ("2\\sqrt{3}", "3.46", False),
    ("\\frac{4}{3}\\pi", "4/3\\pi", True),
    ("1.6e-19", "9.1e-31", False),
    ("10 million", "10", False),
    ("12", "12 cm^2", True),
    ("5 cm", "50 mm", True),
    ("5 cm", "5 kg", False),
    ("60", "60度", True),
    ("(1,2)", "x=1, y=2", True),
    ("1, 2, 3", "3, 1 and 2", True),
    ("\\{1,2\\}", "\\{2,1\\}", True),
    ("[0,1)", "0 \\le x < 1", True),
    ("(-\\infty,1)\\cup(2,\\infty)", "x<1 \\text{ or } x>2", True),
    ("x=5", "5", True),
    ("y=\\frac{1}{2}x+3", "x-2y+6=0", True),
    ("x^2+2x+1", "(x+1)^2", True),
    ("3:4", "6:8", True),
    ("March 5, 2024", "2024-03-05", True),
    ("3:45 pm", "15:45", True),
    ("the blue one", "The Blue One.", True),
    ("yes", "no", False),
    ("B", "B. 80^\\circ", True),
    ("B", "C. 80", False),
    ("B", "(B)", True),
)
ALGEBRA: tuple[Pair, ...] = (
    ("\\max(x, y)", "\\max(y, x)", True),
    ("6", "\\binom{4}{2}", True),
    ("7", "\\binom{4}{2}", False),
    ("\\lfloor x \\rfloor + 1", "1 + \\lfloor x \\rfloor", True),
    ("\\lfloor x \\rfloor + 1", "\\lceil x \\rceil + 1", False),
    ("x+y>3", "3<x+y", True),
    ("x+y>3", "x+y<3", False),
    ("2x<y", "y>2x", True),
    ("x \\ne 2", "x \\neq 2.0", True),
    ("\\frac{x}{2}+\\lfloor y \\rfloor", "0.5x+\\lfloor y \\rfloor", True),
)


def measure(pairs: Sequence[Pair], repeats: int) -> tuple[float, float, int]:
    """Answers per CPU second, CPU seconds of the slowest one, and how many went to a worker."""
    reward, slowest, left, wrong = Boxed(), 0.0, 0, []
    problems = [Problem(id="p", question="How long is it?", images=(), answer=gold) for gold, _, _ in pairs]
    texts = [f"<think>Let me look.</think> The answer is \\boxed{{{box}}}." for _, box, _ in pairs]
    for problem, text in zip(problems, texts, strict=True):  # imports and caches
        reward(problem, text)
    start = time.process_time()
    for _ in range(repeats):
        for problem, text, (gold, box, right) in zip(problems, texts, pairs, strict=True):
            began = time.process_time()
            verdict = reward(problem, text)
            slowest = max(slowest, time.process_time() - began)
            if verdict != float(right):
                wrong.append((gold, box, verdict))
    spent = time.process_time() - start
    left = sum(isinstance(reward.settle(p, t), Task) for p, t in zip(problems, texts, strict=True))
    if wrong:
        raise SystemExit(f"wrong verdicts: {wrong[:5]}")
    return repeats * len(pairs) / spent, slowest, left


def main() -> None:
    """Measure both mixes and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20, help="passes over each mix")
    parser.add_argument("--out", help="file to append the result to")
    arguments = parser.parse_args()
    rules, slowest_rule, none = measure(RULES, arguments.repeats * 5)
    algebra, slowest_formula, all_of_them = measure(ALGEBRA, arguments.repeats)
    print(f"rules: {rules:.0f} answers per CPU second, slowest {1e3 * slowest_rule:.1f} ms, {none} left over")
    print(
        f"formulas: {algebra:.0f} answers per CPU second, slowest {1e3 * slowest_formula:.1f} ms, "
        f"{all_of_them} left over"
    )
    end(
        {
            "rules_per_cpu_s": round(rules, 1),
            "formulas_per_cpu_s": round(algebra, 1),
            "slowest_rule_s": round(slowest_rule, 4),
            "slowest_formula_s": round(slowest_formula, 4),
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
