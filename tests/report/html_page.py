"""A page read by the standard library's parser, which must find every element closed in its order."""

import html.parser

EMPTY = ("img", "link", "meta")


class Page(html.parser.HTMLParser):
    """tags: [(name, attributes)] in their order; text: what a reader sees; rows: the cells of every table row."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.rows, self._text = [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = "".join(self._text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a start"
        assert self.open[-1] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data):
        if "style" in self.open:
            return
        self._text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, name, **attributes):
        """The attributes of the elements of this name that have these."""
        return [a for tag, a in self.tags if tag == name and all(a.get(k) == v for k, v in attributes.items())]

    def row(self, first):
        """The other cells of the first row that begins with this text."""
        return next(row[1:] for row in self.rows if row and row[0] == first)
