"""``python -m privface``."""

from privface.cli.main import main

if __name__ == "__main__":
    main()
