"""The script that makes the Paddle models needs Paddle, and is no test."""

collect_ignore = ["make_paddle.py"]
