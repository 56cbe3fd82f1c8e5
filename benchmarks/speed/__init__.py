"""Measures how fast the server is: beside what the machine allows, beside other servers, and by configuration."""
