"""What hosts' robots.txt say of the links: from a crawl's archives before anything is chosen, and asked live."""
