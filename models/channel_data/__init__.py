"""Which sources are search engines, social networks, video sites, shops or AI assistants; GA4's rules."""
