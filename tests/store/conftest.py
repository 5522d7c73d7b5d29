import pytest

pytest.register_assert_rewrite("opusd.testing.stores", "opusd.testing.store_reading")
