"""`python -m raytrail` is `raytrail`."""

from raytrail.cli import main

if __name__ == "__main__":
    main()
