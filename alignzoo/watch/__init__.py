"""A page that shows a run or a comparison while it goes on."""
