"""Readable class names of the catalog's data sets, each in the label order that its comment states."""

from __future__ import annotations


def _names(text: str) -> tuple[str, ...]:
    """One comma-separated paragraph keeps a hundred names readable."""
    return tuple(" ".join(name.split()) for name in text.split(","))


EUROSAT = _names(
    """
    annual crop land, forest, brushland or shrubland, highway or road, industrial buildings or commercial
    buildings, pasture land, permanent crop land, residential buildings or homes or apartments, river, lake
    or sea
    """
)
"""CLIP's own names (the openai/CLIP prompts list), in the order of :data:`EUROSAT_FOLDERS`."""

EUROSAT_FOLDERS = _names(
    """
    AnnualCrop, Forest, HerbaceousVegetation, Highway, Industrial, Pasture, PermanentCrop, Residential,
    River, SeaLake
    """
)
"""The names of the original release, sorted."""

PETS = _names(
    """
    abyssinian, american bulldog, american pit bull terrier, basset hound, beagle, bengal, birman, bombay,
    boxer, british shorthair, chihuahua, egyptian mau, english cocker spaniel, english setter, german
    shorthaired, great pyrenees, havanese, japanese chin, keeshond, leonberger, maine coon, miniature
    pinscher, newfoundland, persian, pomeranian, pug, ragdoll, russian blue, saint bernard, samoyed,
    scottish terrier, shiba inu, siamese, sphynx, staffordshire bull terrier, wheaten terrier, yorkshire
    terrier
    """
)
"""Sorted without regard to capitals, as the original release numbers them."""

CIFAR10 = _names(
    """
    airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck
    """
)
"""In the original order."""

CIFAR100 = _names(
    """
    apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus,
    butterfly, camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch,
    crab, crocodile, cup, dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house,
    kangaroo, keyboard, lamp, lawn mower, leopard, lion, lizard, lobster, man, maple tree, motorcycle,
    mountain, mouse, mushroom, oak tree, orange, orchid, otter, palm tree, pear, pickup truck, pine tree,
    plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road, rocket, rose, sea, seal, shark,
    shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, sunflower, sweet pepper, table,
    tank, telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale, willow tree,
    wolf, woman, worm
    """
)
"""Sorted, which is the order of the fine labels."""

_CIFAR100_GROUPS = {
    "aquatic mammal": "beaver, dolphin, otter, seal, whale",
    "fish": "aquarium fish, flatfish, ray, shark, trout",
    "flower": "orchid, poppy, rose, sunflower, tulip",
    "food container": "bottle, bowl, can, cup, plate",
    "fruit or vegetable": "apple, mushroom, orange, pear, sweet pepper",
    "household electrical device": "clock, keyboard, lamp, telephone, television",
    "piece of furniture": "bed, chair, couch, table, wardrobe",
    "insect": "bee, beetle, butterfly, caterpillar, cockroach",
    "large carnivore": "bear, leopard, lion, tiger, wolf",
    "large man-made outdoor thing": "bridge, castle, house, road, skyscraper",
    "large natural outdoor scene": "cloud, forest, mountain, plain, sea",
    "large omnivore or herbivore": "camel, cattle, chimpanzee, elephant, kangaroo",
    "medium-sized mammal": "fox, porcupine, possum, raccoon, skunk",
    "invertebrate": "crab, lobster, snail, spider, worm",
    "person": "baby, boy, girl, man, woman",
    "reptile": "crocodile, dinosaur, lizard, snake, turtle",
    "small mammal": "hamster, mouse, rabbit, shrew, squirrel",
    "tree": "maple tree, oak tree, palm tree, pine tree, willow tree",
    "vehicle": "bicycle, bus, motorcycle, pickup truck, train, lawn mower, rocket, streetcar, tank, tractor",
}
CIFAR100_BROADER = {name: broader for broader, group in _CIFAR100_GROUPS.items() for name in _names(group)}
"""The coarse label of each class, in the singular; the two groups of vehicles are one."""

FLOWERS102 = _names(
    """
    pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily,
    moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear
    thistle, yellow iris, globe flower, purple coneflower, peruvian lily, balloon flower, giant white arum
    lily, fire lily, pincushion flower, fritillary, red ginger, grape hyacinth, corn poppy, prince of wales
    feathers, stemless gentian, artichoke, sweet william, carnation, garden phlox, love in the mist, mexican
    aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort, siam tulip, lenten rose,
    barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold, buttercup,
    oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff,
    gaura, geranium, orange dahlia, pink and yellow dahlia, cautleya spicata, japanese anemone, black-eyed
    susan, silverbush, californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy,
    gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus, toad lily,
    anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
    watercress, canna lily, hippeastrum, bee balm, air plant, foxglove, bougainvillea, camellia, mallow,
    mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
    """
)
"""In Oxford's order, class 1 first, with the spelling of the openai/CLIP prompts list."""
