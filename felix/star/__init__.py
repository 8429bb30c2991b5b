"""The Star demonstration: probes that try who reaches whom, and a collector that shows it on one page.

It imports nothing else of Felix: it looks at a network from inside, as any application would.
"""
