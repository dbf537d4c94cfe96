r"""The query language: from the text that a person types to a `Query`, and back. Pure, no I/O.

`docs/query-language.md` tells it to people; every example there is a test. The grammar, where `item`s are
separated by white space:

    query    = { item }
    item     = operator | [sign] filter | [sign] [weight ":"] ( word | image | saved )
    operator = "+" | "-"                          alone between white space: starts a new term
    sign     = "+" | "-"                          glued to what follows: the same, or turns a filter round
    weight   = decimal number                     at the start of a term
    word     = characters, quoted parts, escapes  words that follow one another are one text
    image    = path | "id:" number | "upload:" name | URL
    path     = a word that starts with ./ ../ / ~/ or a drive letter, with / or \
    saved    = "@" name
    filter   = key ":" value                      may stand anywhere; does not end the text around it
"""

from search.query.expansion import expand as expand
from search.query.formatting import format_query as format_query
from search.query.parser import FILTER_EXAMPLES as FILTER_EXAMPLES
from search.query.parser import FILTER_KEYS as FILTER_KEYS
from search.query.parser import LARGEST_ID as LARGEST_ID
from search.query.parser import MAXIMUM_CHARACTERS as MAXIMUM_CHARACTERS
from search.query.parser import MAXIMUM_TERMS as MAXIMUM_TERMS
from search.query.parser import parse as parse
from search.query.terms import ImageId as ImageId
from search.query.terms import ImagePath as ImagePath
from search.query.terms import ImageUpload as ImageUpload
from search.query.terms import ImageUrl as ImageUrl
from search.query.terms import Query as Query
from search.query.terms import Saved as Saved
from search.query.terms import Target as Target
from search.query.terms import Term as Term
from search.query.terms import Text as Text
from search.query.terms import texts_of as texts_of
