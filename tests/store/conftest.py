import pytest

pytest.register_assert_rewrite("opusd.testing.stores")
