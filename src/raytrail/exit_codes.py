"""What a command's exit says: its codes, as ``raytrail --help`` lists them."""

OK, DIFFERENT, USAGE, BROKEN, BUG, INTERRUPTED = 0, 1, 2, 3, 70, 130
