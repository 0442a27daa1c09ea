"""Texts: original prose, for checkpoints that come without data; in the language that a vocabulary is for."""

from collections.abc import Sequence

import numpy as np

from ..data.vocabulary import UNK, Vocabulary

ENGLISH = (
    "The old ferry leaves the harbour at seven every morning, whether or not there are passengers. Captain Lowe says "
    "that a boat is like a clock: people stop trusting it the first time it is late. On Monday there was a thick fog, "
    "and only two women and a boy with a bicycle came on board. They stood close together near the door and drank hot "
    "tea from paper cups while the engine warmed up.",
    "My grandmother never used a cookbook. When I asked her how much sugar went into the apple cake, she looked at me "
    "as if I had asked how much air one should breathe. “Enough,” she said, and laughed. Years later I tried to write "
    "the recipe down, and it took me five cakes to find out what she meant. The first one was so sweet that even the "
    "dog did not want it.",
    "In the spring the school decided to plant a garden behind the library. The younger children wanted flowers, but "
    "the teachers thought that vegetables would be more useful. In the end they did both: tomatoes and beans along the "
    "wall, and a long row of sunflowers by the gate. Nobody knew who would water the plants during the holidays, so "
    "each family took the key for a week and wrote down what had grown.",
)

FRENCH = (
    "Le petit bateau quitte le port tous les matins à sept heures, même quand il n'y a personne à bord. Le capitaine "
    "dit souvent qu'un bateau est comme une horloge : on ne lui fait plus confiance dès qu'il est en retard. Lundi, il "
    "y avait beaucoup de brouillard, et seulement deux femmes sont montées avec un garçon et son vélo. Ils ont bu du "
    "thé chaud près de la porte pendant que le moteur se réchauffait.",
    "Ma grand-mère ne regardait jamais dans un livre de cuisine. Quand je lui ai demandé combien de sucre il fallait "
    "mettre dans le gâteau aux pommes, elle a ri et m'a répondu : assez. Des années plus tard, j'ai essayé d'écrire la "
    "recette, et il m'a fallu cinq gâteaux pour comprendre ce qu'elle voulait dire.",
)

CHINESE = (
    "每天早上七点,小船都会离开港口,不管有没有客人。船长常常说,船就像钟一样,只要晚了一次,人们就不再相信它。星期一的雾很大,"
    "只有两个女人和一个带着自行车的男孩上了船。他们站在门边,一边喝热茶,一边等船开动。",
    "我的奶奶做饭从来不看书。我问她苹果蛋糕里要放多少糖,她笑着说:够了就好。很多年以后,我想把她的做法写下来,"
    "做了五个蛋糕才明白她的意思。第一个太甜了,连狗都不想吃。",
)

LANGUAGES = {"English": ENGLISH, "French": FRENCH, "Chinese": CHINESE}

#: Bytes of a text in these languages that say as much as one of English does.
_BYTES = {"English": 1.0, "French": 1.1, "Chinese": 0.85}


def texts_for(vocabulary: Vocabulary) -> tuple[str, Sequence[str]]:
    """The language whose text the vocabulary cuts into the fewest tokens for what it says, and its texts."""

    def effort(language: str) -> float:
        texts = LANGUAGES[language]
        tokens = np.concatenate(vocabulary.encode(texts))
        said = sum(len(text.encode()) for text in texts) / _BYTES[language]
        return float(len(tokens) + 9 * (tokens == UNK).sum()) / said

    language = min(LANGUAGES, key=effort)
    return language, LANGUAGES[language]
