"""The words of the field: usual columns of each field, and layouts by the columns that mark them."""

QUESTION = ("problem", "question", "prompt", "query", "problem_text", "question_text", "instruction")
QUESTION_AFTER = ("query_cot", "query_wo")
"""Columns that stand in where the question itself is empty: MathVerse's version whose question is drawn."""
TURNS_FIRST = ("prompt",)
"""Columns of turns that go before a text column: the prompt is what its makers show the model."""
TURNS = ("messages", "conversations", "conversation", "message", "chat", "dialog")
FULL_PROMPT = "query"
"""MathVista's column with the question, its options and the form of the answer."""

IMAGES = (
    *("images", "image", "decoded_image", "decoded_images", "file_names", "file_name", "image_paths"),
    *("image_path", "image_files", "image_file", "imagename", "image_name", "image_urls", "image_url"),
    *("img", "imgs", "img_path", "picture", "pictures", "figure", "figures"),
)
DECODED = ("decoded_image", "decoded_images")
"""Columns that hold the picture where `image` holds a path of the set's makers."""
NUMBERED_IMAGES = r"(?:image|img|picture|figure)[_ ]?(\d{1,2})"

ANSWER = (
    *("answer", "ground_truth", "gold", "reward_model.ground_truth", "correct_answer", "final_answer"),
    *("answerKey", "answer_key", "correct_choice_idx", "correct_choice", "correct_option", "correct_idx"),
    *("gt_answer", "gt", "target", "label", "solution", "extra_info.answer", "extra_info.ground_truth"),
)
ANSWER_AFTER = ("completion", "response", "output")
"""Columns of whole completions; taken last, and only for the answer that stands in them."""
NOT_QUESTION = frozenset(
    name.casefold() for name in (*ANSWER, *ANSWER_AFTER, *IMAGES, "solutions", "answers", "rationale")
)
"""Columns that are never suggested for the question."""

CHOICES = ("choices", "options", "option", "choice", "candidates", "answer_options", "compact_choices")
CHOICES_ALONE = ("choices", "options", "answer_options")
"""Of these, the ones that hold nothing else; `choice` or `candidates` may be an answer, or an output."""
ID = ("id", "problem_id", "question_id", "qid", "uid", "pid", "sample_index", "index", "question number")
SYSTEM = ("system", "system_prompt")
HINT = "hint"

INDEX_NAMES = frozenset(("correct_choice_idx", "correct_idx", "answer_idx", "answer_index", "label"))

DRAWN_QUESTION = "Answer the question that stands in the picture."
"""The prompt of rows with pictures and answers but no question: it is drawn (MMMU-Pro, vision split)."""

LAYOUTS: tuple[tuple[str, frozenset[str]], ...] = (
    ("verl", frozenset(("prompt", "reward_model"))),
    ("MathVista", frozenset(("query", "decoded_image", "answer_type"))),
    ("MathVerse", frozenset(("query_cot", "problem_version"))),
    ("MathVision", frozenset(("options", "decoded_image", "level"))),
    ("DynaMath", frozenset(("ground_truth", "decoded_image"))),
    ("MMMU", frozenset(("options", "image_1"))),
    ("MMMU-Pro, vision", frozenset(("options", "image", "subject", "answer"))),
    ("We-Math", frozenset(("option", "knowledge concept"))),
    ("LogicVista", frozenset(("imagename", "skill"))),
    ("ScienceQA", frozenset(("choices", "hint", "lecture"))),
    ("A-OKVQA", frozenset(("choices", "correct_choice_idx"))),
    ("VLMEvalKit", frozenset(("question", "A", "B"))),
    ("lmms open-r1", frozenset(("problem", "solution", "original_question"))),
    ("ViRL39K", frozenset(("question", "qid", "PassRate_32BTrained"))),
    ("open-r1", frozenset(("problem", "solution"))),
    ("EasyR1", frozenset(("problem", "answer", "images"))),
)
"""Names of layouts, for printing alone: the first whose columns are all there."""
