"""Bad input and a bad machine: what is refused says so by name, what was acknowledged stays, and work goes on."""

import pytest


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"command": ["true"], "promt": "x"}, "$.promt"),
        ({"command": "true"}, "$.command"),
        ({"command": ["true"], "boost": "much"}, "$.boost"),
        ({"command": ["true"], "held": 1}, "$.held"),
        ({"command": ["true", 3]}, "$.command[1]"),
    ],
)
def test_a_field_that_is_unknown_or_of_the_wrong_type_is_refused_by_its_path(commons, fields, path):
    error = commons.refused("job.submit", **fields)
    assert (error.code, error.data["code"], error.data["path"]) == (-32602, "invalid_params", path)
