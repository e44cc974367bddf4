"""Problems that the library does not know: named by a file or a module, built again from that name anywhere."""

from bilevel_rl.references.loading import is_reference as is_reference, registered as registered
from bilevel_rl.references.parameters import Parameter as Parameter
from bilevel_rl.references.problem import ReferencedProblem as ReferencedProblem
