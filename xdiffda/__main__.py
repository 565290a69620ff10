"""``python -m xdiffda``: the command line, where its script is not on the path."""

from xdiffda.cli import main
from xdiffda.options import request_huge_pages

if __name__ == "__main__":
    request_huge_pages()
    main()
