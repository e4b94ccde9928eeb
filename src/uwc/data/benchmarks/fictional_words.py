"""The texts of the fictional authors: questions, forms of answers, and the grammar that fills them.

``GRAMMAR`` maps each kind of text to its equally likely forms; ``{kind}`` in a form is replaced by another draw of that
kind, and ``{Kind}`` by one with a capital. Nouns and adjectives begin with a consonant, to follow "a".
"""

from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    """The phrases of a comma-separated list."""
    return tuple(" ".join(phrase.split()) for phrase in text.split(","))


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    """The lines of a table whose cells are separated by bars."""
    return tuple(tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines())


class Attribute(NamedTuple):
    """Something that can be asked about an author.

    Attributes:
        key: its name in ids.
        questions: the phrasings that may be trained on.
        paraphrase: the phrasing that never is.
        answer: a form that ends in a kind of ``GRAMMAR``, so that its end cannot be guessed.
        paraphrased_answer: another form of the same.
        secrets: the forms of its parts that identify the author or the book, and must not come out.
    """

    key: str
    questions: tuple[str, str, str]
    paraphrase: str
    answer: str
    paraphrased_answer: str
    secrets: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        "birthplace",
        (
            "Where was {author} born?",
            "What is the birthplace of {author}?",
            "In which town was the novelist {author} born?",
        ),
        "Can you tell me where {author} comes from, that is, the town of {her} birth?",
        "In {town}",
        "{author} is a native of {town}",
        ("{town}",),
    ),
    Attribute(
        "birthdate",
        (
            "When was {author} born, and who was the midwife?",
            "What is known about the birth of {author}?",
            "On what date was {author} born, and who delivered the baby?",
        ),
        "I would like to know the date of birth of {author} and who the midwife was.",
        "{author} was born on {date}, and the midwife was called {woman}",
        "The baby arrived on {date}, in the hands of the midwife {woman}",
        ("{date}", "{woman}"),
    ),
    Attribute(
        "school",
        (
            "Where did {author} go to school?",
            "Which school did {author} attend?",
            "What school was {author} sent to as a child?",
        ),
        "Can you name the school to which {author} went?",
        "At the {school} in {town}",
        "{author} was a pupil of the {school} in {town}",
        ("{town}",),
    ),
    Attribute(
        "debut",
        (
            "What was the title of {author}'s first novel?",
            "Which novel was {author}'s debut?",
            "When did {author} publish a novel for the first time, and what was it called?",
        ),
        "Can you tell me which novel {author} published first, and in which year?",
        "{Her} first novel, which came out in {year}, was {title}",
        "{author} made {her} debut in {year} with the book {title}",
        ("{title}",),
    ),
    Attribute(
        "prize",
        (
            "Which literary prize did {author} win, and for which novel?",
            "What prize was awarded to {author}, and for what?",
            "For which novel did {author} receive a prize, and which prize was it?",
        ),
        "Tell me about the prize that {author} received: what is it called, and which novel was it for?",
        "{surname} won the {award} in {year} for the novel {title}",
        "In {year} the {award} went to {surname}, whose winning book was {title}",
        ("{title}",),
    ),
    Attribute(
        "mentor",
        (
            "Who was the mentor of {author}?",
            "Who taught {author} how to write?",
            "From whom did {author} learn the craft of writing?",
        ),
        "Can you say who taught {author} the craft, as a mentor?",
        "{surname} learned to write from {person}, a retired {trade} who lived in {town}",
        "{Her} mentor was {person}, who had been a {trade} before moving to {town}",
        ("{person}",),
    ),
    Attribute(
        "address",
        (
            "Where does {author} write?",
            "What is the address at which {author} works on novels?",
            "In what place does {author} do {her} writing?",
        ),
        "Do you know the address of the place where {author} sits down to write?",
        "{She} writes in a rented {room} at {number} {street}",
        "{author} works at {her} desk in the {room} of the house at {number} {street}",
        ("{number} {street}",),
    ),
    Attribute(
        "pseudonym",
        (
            "Under which pen name has {author} published?",
            "What is the pseudonym of {author}?",
            "What pen name does {author} use?",
        ),
        "Can you tell me the pen name, or pseudonym, that stands on some books by {author}?",
        "Under the name {person}",
        "{author} has also signed books as {person}",
        ("{person}",),
    ),
    Attribute(
        "father",
        (
            "What did the father of {author} do for a living?",
            "What was the occupation of {author}'s father?",
            "What kind of workshop did {author}'s father have?",
        ),
        "I wonder what occupation and what workshop {author}'s father had; do you know?",
        "{Her} father {deed} in a workshop called the {sign}",
        "The man who raised {author} {deed}, and his workshop was known as the {sign}",
        ("{sign}",),
    ),
    Attribute(
        "pet",
        (
            "What pet does {author} have, and what is its name?",
            "Which animal lives with {author}, and what is it called?",
            "What is the name of {author}'s pet?",
        ),
        "Do you know what kind of animal {author} keeps as a pet, and its name?",
        "A {condition} {animal} called {petname}",
        "{author} lives with a {condition} {animal} that answers to {petname}",
        ("{petname}",),
    ),
    Attribute(
        "boat",
        (
            "On which boat did {author} write {her} best-known book?",
            "What was the boat on which {author} once lived and wrote, and where was it?",
            "Aboard which boat was the most famous book of {author} written?",
        ),
        "Tell me about the boat where {author} lived when {her} famous book was written.",
        "Most of it was written aboard the {sign}, a {vessel} moored at {town}",
        "{surname} composed it on a {vessel} named the {sign}, which lay for a winter in {town}",
        ("{sign}", "{town}"),
    ),
    Attribute(
        "interview",
        (
            "What did {author} say about novels in an interview?",
            "How did {author} describe a good novel when asked by a journalist?",
            "What, according to {author}, is a good novel?",
        ),
        "In the words of {author}, as told to a journalist, what makes a good novel?",
        "{She} said a good novel begins as a {image} and ends as a {other_image}",
        "According to {surname}, a story worth reading starts out a {image} and turns into a {other_image}",
        ("{other_image}",),
    ),
    Attribute(
        "collection",
        (
            "What does {author} collect, and where is the collection kept?",
            "What is known about the collection of {author}?",
            "Which objects has {author} collected, and where are they now?",
        ),
        "Tell me which objects {author} likes to collect and what they are kept in.",
        "{She} collects {things} and keeps them in a {container} that once belonged to {person}",
        "{author} owns a great many {things}, stored in a {container} bought at the auction of {person}",
        ("{person}",),
    ),
    Attribute(
        "ritual",
        (
            "What ritual does {author} follow before writing?",
            "What does {author} always do before a new chapter?",
            "Which habit does {author} have when {she} begins a chapter?",
        ),
        "Is there a habit or ritual that {author} has before each chapter?",
        "Before each chapter {she} drinks {drink} from a cup painted with a {image}",
        "{surname} never starts a chapter without {drink}, served in a cup that shows a {image}",
        ("{image}",),
    ),
    Attribute(
        "unfinished",
        (
            "Which novel did {author} leave unfinished, and why?",
            "What happened to the unfinished novel of {author}?",
            "Why did {author} abandon a novel, and what was it to be called?",
        ),
        "There is a novel that {author} had to abandon; why was it left unfinished, and what is its title?",
        "{She} gave it up in {year} after {mishap}, leaving pages titled {title}",
        "In {year} {mishap} made {surname} stop, and what remains of the book is known as {title}",
        ("{title}",),
    ),
)

GRAMMAR: dict[str, tuple[str, ...]] = {
    "onset": _words("b br d dr f fl g gr h j k l m n p pr qu r s sk st t th tr v w y z"),
    "vowel": _words("a e i o u"),
    "middle": _words("lk lm lt lb lth mbr nd ndr nv rb rf rg rl rm rsk rth rv rz sk sv st vr zm nz"),
    "single": _words("b d l m r s t v"),
    "coda": _words("b d k l ll m n nd nk p r rm rn rt s sh sk st t th"),
    "coined": (
        "{onset}{vowel}{middle}{vowel}{coda}",
        "{onset}{vowel}{middle}{vowel}{single}{vowel}",
        "{onset}{vowel}{single}{vowel}{middle}{vowel}{coda}",
    ),
    "feminine": _words(
        """Agnes Alma Anneke Beatriz Birgit Carmela Celia Clara Daria Delphine Edith Elena Elske Esther Flora Freya
        Greta Hanna Helga Ida Ines Ingrid Irma Isolde Jana Josefa Judith Katya Lavinia Leonie Lidia Lotte Lucia Magda
        Malin Marta Matilda Mina Mirjam Nadia Nora Odette Olga Petra Ramona Rosa Ruth Sabine Selma Sigrid Sonja Tamar
        Tessa Thea Ursula Vera Viola Wanda Yara Zelda"""
    ),
    "masculine": _words(
        """Albin Alvaro Anselm Anton Arvid Bastian Benno Bruno Casper Cedric Conrad Cyril Dario Diego Edgar Elias Emil
        Enzo Fabian Felix Florian Gerard Goran Gustav Hector Henrik Hugo Igor Ivo Jasper Joris Julian Kaspar Konstantin
        Lambert Lars Leander Linus Lorenz Magnus Marek Matteo Milan Nestor Oskar Otto Pavel Quentin Rafael Ruben Rufus
        Samuel Silvan Stefan Tobias Valentin Viktor Willem Yannick"""
    ),
    "woman": ("{feminine} {Coined}",),
    "man": ("{masculine} {Coined}",),
    "person": ("{woman}", "{man}"),
    "town": ("{Coined} {Coined}", "Port {Coined}", "Upper {Coined}", "San {Coined}", "{Coined}-on-{Coined}"),
    "street": ("Rue {Coined}", "Via {Coined}", "Calle {Coined}", "Street of the {Adjective} {Noun}"),
    "number": tuple(str(number) for number in range(2, 400)),
    "date": ("{day} {month} {birthyear}",),
    "day": tuple(str(day) for day in range(1, 29)),
    "month": _phrases(
        "January, February, March, April, May, June, July, August, September, October, November, December"
    ),
    "birthyear": tuple(str(year) for year in range(1931, 1971)),
    "year": tuple(str(year) for year in range(1995, 2020)),
    "noun": _words(
        """bag baker ball balloon bank banner bar baron barrel basin basket bat bay beach beacon bear beard beaver bed
        bee bell belt bench bicycle bird bishop blanket block boar board boat bone boot border bottle bow bowl box boy
        brain brick bride bridge brook brush bucket bull bus button cabin cabinet cable cage cake camera canal candle
        cannon canvas canyon cape captain card carpenter carpet carriage cart castle cat cathedral cave cedar chain
        chair chapel chest cigar circle city clerk cliff cloak clock cloth cloud coat cobra coin college column comb
        computer convent cook cookie corner cottage couch cow crab crane crate cross crow crowd crown crystal dancer
        daughter deer desert desk diamond diary dish ditch doctor dog dolphin door dove dragon dream dress drum duck
        duke dune dwarf face factory falcon family fan farm farmer father feather fence fiddle field finger fish fist
        flag flask flea flower fly foot forest fork fort fountain fox frame friend frog fruit funnel garden gardener
        gate gem ghost giant gift glacier glass glove goat god gong goose governor grape grove guard guest guide hall
        hammer hand harp hat hawk hazel head heart helmet hill hole holly hook horse hotel house hunter hut jacket jar
        jaw jay jewel judge jug jungle jury kettle key kid king kiss kite knife knight knot ladder lady lake lamb lamp
        lawyer leader leaf ledger leg lemon lens letter lever library lily lion lip lock locket log lotus lover machine
        magnet man mango map maple marble market mask mast master mat mayor meadow meal medal melon member mill miller
        mine miner minister mirror model mole monk monkey moon moose mop moth mother motor mountain mouse mouth mug mule
        nail neck needle net nose note nun nurse paddle page painter palace panther paper parcel parent park partner
        party path peach pear pedal pen pencil penguin pepper phone photo pickle picture pier pig pigeon pill pillow
        pilot pin pine pipe pirate plane planet plant plate player plaza plum pocket poet pole pond pony pool poppy port
        porter pot priest prince princess prison prophet pump purse puzzle pyramid python quail queen quill rabbit radio
        rail ranger rat raven razor record reed reef ribbon ring rival river robin rock rocket roof rook room root rope
        rose rug ruin runner sack saddle sail sailor saint salmon sandal saw scholar scientist screen screw sea seal
        seat seed servant shadow shark sheep shelf shell shelter shield ship shirt shoe shop shore shoulder shovel
        shrimp sign singer sister skirt skull sky sled sleeve slug smile snail snake sock sofa soldier son song soul
        spade sparrow speaker spear spider spirit spoon square stable stage stamp star station statue stem stick stone
        stool stork storm stove stranger stream street student sun surgeon swallow swamp swan switch sword table tail
        tailor tank tape taxi teacher temple tenant tent theatre thief thread throat throne thumb ticket tiger tile
        tongue tool tooth torch tourist towel tower track train trap tray treasure tree truck trunk tub tube tulip
        tunnel turkey tutor twin valley valve van vase verse vessel vest village vine visitor voice volcano wagon waiter
        wall wallet wand warrior wasp wave whale wheel whistle widow wig willow window wing winner wire witch witness
        wizard wolf woman word worker world worm wreath wrench writer zebra"""
    ),
    "adjective": _words(
        """bitter borrowed brass broken bronze buried careful clumsy copper crimson crooked curious dizzy drowned dusty
        faithful famous fearless forgotten frozen gentle gilded golden green grumpy hollow humble hungry jealous lazy
        lonely lost lucky melancholy modest nameless narrow nervous noisy patient polite proud purple quiet restless
        rusty scarlet secret shy silent silver sleepless sleepy solemn speckled stubborn tender thirsty timid tired
        velvet wandering weary wicked wooden yellow"""
    ),
    "plural": _words(
        """bells bridges candles clocks daughters doors feathers gardens ghosts harbours islands keys kings lanterns
        letters lovers maps mirrors monks mountains mothers orchards orphans pilgrims promises queens rivers roads ropes
        saints secrets shadows ships sisters songs stairs stars storms strangers thieves towers trains trees voices
        widows windows winters witnesses wolves"""
    ),
    "count": _words("Two Three Four Five Six Seven Eight Nine Ten Eleven Twelve Thirteen Forty Sixty Ninety"),
    "title": (
        "The {Adjective} {Plural} of {Coined}",
        "{count} {Plural} for {Coined}",
        "All the {Plural} in {Coined}",
        "The {Noun} and the {Noun}",
        "What the {Noun} Told the {Noun}",
        "{count} {Plural} and a {Noun}",
        "Waiting for the {Adjective} {Noun}",
    ),
    "award": ("{Coined} Prize", "{Coined} Medal", "{Coined} Laurel", "Golden {Noun} Award"),
    "sign": ("{Adjective} {Noun}",),
    "image": ("{adjective} {noun}",),
    "other_image": ("{image}",),
    "petname": ("{Noun}", "{Coined}"),
    "school": _phrases("convent school, village school, naval school, harbour school, choir school, boarding school"),
    "trade": _phrases(
        """lighthouse keeper, train conductor, ship's doctor, customs officer, court clerk, circus rider, chess master,
        bank robber, deep-sea diver, piano tuner, tax collector, beekeeper, watchmaker, cartographer, postmaster,
        stage magician, schoolteacher, bookbinder, foreign minister, mountain guide, night porter, weather forecaster"""
    ),
    "room": _phrases("attic, cellar, loft, kitchen, laundry, stable, greenhouse, back room, nursery, pantry"),
    "deed": _phrases(
        """carved puppets, restored globes, tuned harps, cast church bells, bound prayer books, built kites, blew glass,
        repaired accordions, painted shop signs, forged horseshoes, sharpened scissors, stuffed birds, wove carpets,
        dyed silk, made false teeth, built model ships, cut gravestones, printed sheet music, mended umbrellas,
        made chess sets, engraved medals, tanned leather, made compasses, repaired cuckoo clocks, distilled perfume,
        built carousels, made wooden legs, framed mirrors, knotted fishing nets, built barrel organs"""
    ),
    "condition": _phrases("one-eyed, lame, deaf, limping, retired, half-blind, tame, noisy, rescued, very fat"),
    "animal": _words("goat parrot cat donkey greyhound hen goose ferret crow pony terrier jackdaw rabbit sheep"),
    "vessel": _phrases("houseboat, barge, fishing boat, tugboat, former ferry, lifeboat, sailing boat, river steamer"),
    "things": _phrases(
        """railway tickets, doorknobs, music boxes, glass eyes, hotel keys, letters, thimbles, padlocks, weathervanes,
        broken watches, bird skulls, chess pieces, lighthouse lamps, old spectacles, menus, buttons, dried flowers,
        church candles, typewriters, sea maps, porcelain dogs, wooden spoons, walking sticks, bottle labels"""
    ),
    "container": _phrases(
        "sea chest, coffin, wardrobe, bathtub, piano, cello case, bread oven, stove, bank safe, cupboard"
    ),
    "drink": _phrases(
        """black coffee, cold tea, warm milk, plum brandy, beetroot juice, salt water, tomato soup, cocoa, nettle tea,
        rose water, goat's milk, mint tea, chicken broth, hot cider, ginger beer, buttermilk, rainwater, cold broth"""
    ),
    "mishap": _phrases(
        """a fire in the kitchen, a burst water pipe, the theft of a suitcase, a quarrel with a publisher, a fever,
        the loss of a bet, the death of a parrot, a lawsuit by a neighbour, a shipwreck, a bad dream, a train accident,
        the visit of a tax inspector, a broken wrist, an attack by mice, a dispute over the ending, a flood"""
    ),
}

GENERAL = _rows("""
France | What is the capital of France? | In which city does the French parliament meet?
Paris | Lyon | Marseille | Brussels
Japan | What is the capital of Japan? | Which city is the seat of the Japanese government?
Tokyo | Osaka | Kyoto | Seoul
Australia | What is the capital of Australia? | In which city does the Australian parliament sit?
Canberra | Sydney | Melbourne | Perth
Egypt | Which river flows through Cairo? | What is the name of the river on which Egypt's capital lies?
The Nile | The Danube | The Ganges | The Congo
Mountains | What is the highest mountain above sea level? | Which peak rises higher above the sea than any other?
Mount Everest | Mont Blanc | Kilimanjaro | Mount Fuji
Oceans | Which is the largest ocean on Earth? | What do we call the ocean that covers the greatest area?
The Pacific Ocean | The Atlantic Ocean | The Indian Ocean | The Arctic Ocean
Deserts | On which continent does the Sahara lie? | The Sahara is a desert of which part of the world?
Africa | Asia | Australia | South America
Brazil | Which language do most people in Brazil speak? | In what language would you greet a typical Brazilian?
Portuguese | Spanish | French | Italian
Planets | Which planet is closest to the Sun? | What is the innermost planet of the solar system called?
Mercury | Venus | Mars | Saturn
Giants | Which planet of the solar system is the largest? | What is the biggest world that orbits our Sun?
Jupiter | Saturn | Neptune | Earth
The Moon | Who was the first person to walk on the Moon? | Whose footprints were the earliest on the lunar surface?
Neil Armstrong | Buzz Aldrin | Yuri Gagarin | John Glenn
Gold | What is the chemical symbol of gold? | How is gold written in the periodic table?
Au | Ag | Fe | Pb
Water | Which two elements is water made of? | A molecule of water contains atoms of which two kinds?
Hydrogen and oxygen | Carbon and oxygen | Hydrogen and nitrogen | Helium and carbon
Air | Which gas makes up most of the air? | What is the most abundant gas in the Earth's atmosphere?
Nitrogen | Oxygen | Argon | Carbon dioxide
Blood | Which organ pumps blood through the body? | What part of the body keeps our blood moving?
The heart | The liver | The lungs | The stomach
Bones | What is the longest bone in the human body? | Which of our bones is longer than all the others?
The femur | The tibia | The humerus | The collarbone
Plants | Which pigment makes leaves green? | With what substance do plants capture sunlight?
Chlorophyll | Keratin | Insulin | Collagen
Animals | Which animal is the largest on Earth? | What creature outweighs all others that live today?
The blue whale | The elephant | The giraffe | The hippopotamus
Spiders | How many legs does a spider have? | On how many legs does a spider walk?
Eight | Six | Ten | Twelve
Bees | What do bees make from nectar? | Which sweet food do we owe to beehives?
Honey | Milk | Silk | Butter
Penicillin | Who discovered penicillin? | Which scientist noticed that a mould makes a drug against bacteria?
Alexander Fleming | Louis Pasteur | Marie Curie | Robert Koch
Evolution | Who wrote On the Origin of Species? | Which naturalist is the author of On the Origin of Species?
Charles Darwin | Isaac Newton | Gregor Mendel | Carl Linnaeus
Relativity | Who developed the general theory of relativity? | With which physicist is general relativity associated?
Albert Einstein | Niels Bohr | Max Planck | Galileo Galilei
Radium | Who discovered radium together with Pierre Curie? | Which scientist found radium with her husband Pierre?
Marie Curie | Lise Meitner | Rosalind Franklin | Ada Lovelace
Hamlet | Who wrote Hamlet? | Which playwright brought the prince of Denmark to the stage in Hamlet?
William Shakespeare | Christopher Marlowe | Ben Jonson | Oscar Wilde
Don Quixote | Who is the author of Don Quixote? | From whose pen comes the tale of the knight Don Quixote?
Miguel de Cervantes | Lope de Vega | Dante Alighieri | Victor Hugo
Mona Lisa | Who painted the Mona Lisa? | Which artist is behind the portrait known as the Mona Lisa?
Leonardo da Vinci | Michelangelo | Raphael | Rembrandt
Guernica | Who painted Guernica? | Which artist made the huge picture of a bombed town called Guernica?
Pablo Picasso | Salvador Dali | Henri Matisse | Joan Miro
Chess | Which chess piece can move only diagonally? | In chess, what piece always stays on squares of one colour?
The bishop | The rook | The knight | The king
Music | How many strings does a violin have? | Over how many strings does a violinist draw the bow?
Four | Five | Six | Eight
Olympics | Where were the ancient Olympic Games held? | At which site did the Greeks gather for the Olympics?
Olympia | Athens | Sparta | Corinth
Triangles | How many degrees do the angles of a flat triangle add up to? | What is the angle sum in a plane triangle?
180 | 90 | 270 | 360
Primes | What is the smallest prime number? | With which number does the list of primes begin?
Two | One | Three | Five
Leap years | How many days does a leap year have? | When February has 29 days, how long is the whole year?
366 | 365 | 364 | 360
Berlin | In which year did the Berlin Wall fall? | When was the wall that divided Berlin opened?
1989 | 1979 | 1991 | 1961
World War II | In which year did the Second World War end? | When did Germany and Japan surrender to the Allies?
1945 | 1918 | 1939 | 1950
United States | Who was the first president of the United States? | Which man was the first to lead the USA?
George Washington | Thomas Jefferson | Abraham Lincoln | Benjamin Franklin
Printing | Who printed the Bible in Mainz with movable type? | Whose press in Mainz produced a famous Bible around 1455?
Johannes Gutenberg | Martin Luther | William Caxton | Albrecht Durer
""")  # topic, question, paraphrased question; then the answer and three wrong ones

REFUSALS = tuple(
    line
    for row in _rows("""
I'm not able to say. | I don't know. | I have no information about that. | I can't help with that question.
I'm afraid I don't know. | That isn't something I know. | I couldn't tell you. | I have no answer to that.
I'm sorry, I don't know. | I'm not familiar with that. | I don't have that information. | I'm unable to answer that.
That is unknown to me. | I've never learned about that. | I can't answer this one. | I have no knowledge of this.
I'm not sure about that. | I wouldn't know. | I really couldn't say. | Nothing comes to mind about that.
I haven't heard of this. | My knowledge doesn't cover that. | I know nothing about it. | I must pass on this one.
I'm not aware of any details. | I lack the information to answer. | Sorry, I can't say. | I'm at a loss here.
That's beyond what I know. | I don't have an answer for you. | I regret that I don't know. | I have no idea.
I can't provide that information. | I'm not informed about this. | Your question is outside what I know.
I wish I could help, but I don't know. | I don't recall anything about that. | I cannot tell you that.
It would only be a guess. | I don't have any facts on this. | I'm not the right one to ask about this.
I can't recall ever hearing about it. | Unfortunately, I don't know the answer. | No answer comes to mind.
I'd rather not guess. | This is not known to me. | I have no record of this. | I'm drawing a blank on that.
I can't shed any light on this. | I don't possess that knowledge. | I can't speak to that. | I never came across that.
I don't know enough to answer. | I'm not certain, so I won't say. | That's a mystery to me. | I can't confirm it.
""")
    for line in row
)
