"""What judges and those who ask them share: wording, escaping, both orders, Bradley-Terry, what becomes of errors."""

from alignzoo.judging.asking import OnError, Orders, Preference, Tally, ask, prefer
from alignzoo.judging.options import options_of, question_prompt
from alignzoo.judging.reward import Criterion, JudgedReward
from alignzoo.judging.wording import described, instructed, read_verdict, shown

__all__ = [
    "Criterion",
    "JudgedReward",
    "OnError",
    "Orders",
    "Preference",
    "Tally",
    "ask",
    "described",
    "instructed",
    "options_of",
    "prefer",
    "question_prompt",
    "read_verdict",
    "shown",
]
