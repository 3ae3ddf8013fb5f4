r"""Kinds of answers, each decided by a rule in a file of its own.

| file | decides |
|---|---|
| `choice` | letters, letters with text, texts of options, indices |
| `date` | dates and times of day |
| `words` | words, yes and no, numbers in words |
| `chinese` | units, numerals and phrases of Chinese sets, as the other rules read them |
| `unit` | units and what they measure |
| `expression`, `value` | formulas and what they are worth |
| `reading`, `sameness` | numbers with units, percentages, ratios, lists, tuples, sets, intervals, equations |

`foveal.rewards.answers.verdict` asks them in turn: right, wrong, or not mine.
"""
