"""What holds for all tests."""

import signal

# Whoever starts the tests with `&` or nohup lets them ignore Ctrl-C, which some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)
