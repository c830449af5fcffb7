"""Being here, this file lets every test import the helpers of this folder by name."""
