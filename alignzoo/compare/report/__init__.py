"""What a person looks at after a comparison: report.html, and report.md with its pictures."""

from alignzoo.compare.report.page import write_report

__all__ = ["write_report"]
