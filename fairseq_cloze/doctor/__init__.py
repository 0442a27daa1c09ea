"""Doctor: is this checkpoint what it says?"""
