"""Alt texts in other languages: real sentences, each clear to a language identifier."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LANGUAGES", "Language"]


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language of the sample web."""

    code: str
    """ISO 639-1, as fastText's lid.176 names it."""
    charsets: tuple[str, ...]
    """Charsets of its pages, as HTML names them; all of them can hold the sentences."""
    sentences: tuple[str, ...]


LANGUAGES: tuple[Language, ...] = (
    Language(
        code="de",
        charsets=("utf-8", "iso-8859-1"),
        sentences=(
            "Ein roter Kreis auf grauem Grund, gemalt von den Kindern der dritten Klasse",
            "Drei gelbe Sterne leuchten über dem Dach des alten Rathauses",
            "Unser Garten nach dem Regen, mit blühenden Rosen und nassen Blättern",
            "Die Brücke über den Fluss wurde im vergangenen Jahr vollständig erneuert",
            "Großmutter backt am Sonntag immer einen Apfelkuchen mit Zimt",
            "Blick vom Kirchturm auf die verschneiten Häuser der Stadt",
            "Das grüne Dreieck auf dem Schild bedeutet, dass hier Vorfahrt gilt",
            "Ein kleines blaues Boot liegt am Ufer des Sees",
            "Die Schülerinnen zeigen stolz ihre selbst gebastelten Laternen",
            "So sieht unsere neue Werkstatt kurz vor der Eröffnung aus",
            "Wanderweg durch den Wald zwischen den beiden Dörfern",
            "Der Bäcker stellt jeden Morgen frische Brötchen ins Schaufenster",
        ),
    ),
    Language(
        code="fr",
        charsets=("windows-1252", "utf-8"),
        sentences=(
            "Un grand cercle rouge peint sur le mur de l'école",
            "Les enfants ont dessiné des étoiles jaunes pour la fête du village",
            "Le marché du dimanche matin, avec ses fruits et ses légumes de saison",
            "Une petite maison bleue au bord de la mer, entourée de fleurs",
            "La place de la mairie après les travaux de l'été dernier",
            "Voici notre nouvelle collection d'assiettes décorées à la main",
            "Deux carrés verts côte à côte sur une feuille de papier blanc",
            "Le chat dort tranquillement sur le fauteuil près de la fenêtre",
            "Vue sur la vallée depuis le sommet de la colline",
            "Le facteur apporte chaque jour le courrier à vélo",
            "Cette affiche annonce le concert de l'orchestre au théâtre",
            "Un cœur violet brodé sur un coussin en coton",
        ),
    ),
    Language(
        code="es",
        charsets=("utf-8", "iso-8859-1"),
        sentences=(
            "Un círculo rojo grande pintado en la pared de la escuela",
            "Los niños dibujaron tres estrellas amarillas en la pizarra",
            "La plaza del pueblo por la mañana, antes de que abran las tiendas",
            "Mi abuela prepara la comida para toda la familia los domingos",
            "Una casa pequeña con ventanas azules cerca de la playa",
            "El puente antiguo cruza el río desde hace más de cien años",
            "Nuestro taller de cerámica abre sus puertas el próximo lunes",
            "Dos cuadrados verdes sobre un fondo gris muy claro",
            "El perro espera a su dueño delante de la panadería",
            "Aquí puedes ver el cartel que hicimos para la exposición",
            "Las montañas nevadas se ven desde la ventana de la cocina",
            "Un corazón morado bordado en una almohada de algodón",
        ),
    ),
    Language(
        code="it",
        charsets=("iso-8859-1", "utf-8"),
        sentences=(
            "Un cerchio rosso disegnato dai bambini della scuola elementare",
            "Tre stelle gialle dipinte sul soffitto della cappella",
            "La piazza del paese durante la festa di primavera",
            "Una piccola barca azzurra è legata al molo del porto",
            "Il nonno racconta una storia ai nipoti davanti al camino",
            "Questo è il manifesto che abbiamo preparato per la mostra",
            "Il vecchio ponte di pietra attraversa il fiume da molti secoli",
            "Due quadrati verdi disegnati sul foglio dagli alunni della scuola",
            "La finestra della cucina guarda verso le colline",
            "Il gatto dorme sulla sedia vicino alla stufa",
            "Il mercato della domenica con la frutta e i fiori di stagione",
            "Un cuore viola ricamato su un cuscino di cotone",
        ),
    ),
    Language(
        code="nl",
        charsets=("utf-8",),
        sentences=(
            "Een grote rode cirkel geschilderd op de muur van de school",
            "De kinderen hebben gele sterren getekend voor het feest in het dorp",
            "Een klein blauw bootje ligt aan de kade van de haven",
            "Onze tuin na de regen, met bloemen en natte bladeren",
            "Het oude stadhuis wordt dit jaar helemaal opgeknapt",
            "De bakker legt iedere morgen vers brood in het raam van zijn winkel",
            "Twee groene vierkanten naast elkaar op een vel papier",
            "Uitzicht vanaf de toren over de daken van de stad",
            "Hier zie je het affiche dat wij voor de tentoonstelling hebben gemaakt",
            "De kat slaapt rustig op de stoel bij het raam",
            "Een paars hart geborduurd op een katoenen kussen",
            "De brug over de rivier is vorig jaar volledig vernieuwd",
        ),
    ),
    Language(
        code="pl",
        charsets=("iso-8859-2", "utf-8"),
        sentences=(
            "Duże czerwone koło namalowane na ścianie szkoły",
            "Dzieci narysowały żółte gwiazdy na święto wiosny",
            "Mała niebieska łódka stoi przy brzegu jeziora",
            "Stary most nad rzeką został odnowiony w zeszłym roku",
            "Babcia w każdą niedzielę piecze ciasto z jabłkami",
            "Widok z wieży kościoła na ośnieżone dachy miasta",
            "Nasz ogród po deszczu, pełen kwiatów i mokrych liści",
            "Dwa zielone kwadraty narysowane obok siebie na kartce papieru",
            "Kot śpi spokojnie na fotelu przy oknie",
            "Tutaj widać plakat, który przygotowaliśmy na wystawę",
            "Fioletowe serce wyhaftowane na bawełnianej poduszce",
            "Piekarz codziennie rano wystawia świeży chleb",
        ),
    ),
    Language(
        code="ru",
        charsets=("windows-1251", "utf-8"),
        sentences=(
            "Большой красный круг нарисован на стене школы",
            "Дети нарисовали жёлтые звёзды к празднику весны",
            "Маленькая синяя лодка стоит у берега озера",
            "Старый мост через реку отремонтировали в прошлом году",
            "Бабушка каждое воскресенье печёт пирог с яблоками",
            "Вид с колокольни на заснеженные крыши города",
            "Наш сад после дождя, с цветами и мокрыми листьями",
            "Два зелёных квадрата рядом на листе бумаги",
            "Кошка спокойно спит на кресле у окна",
            "Здесь вы видите плакат, который мы сделали для выставки",
            "Фиолетовое сердце вышито на хлопковой подушке",
            "Пекарь каждое утро выставляет свежий хлеб",
        ),
    ),
    Language(
        code="ja",
        charsets=("shift_jis", "utf-8"),
        sentences=(
            "学校の壁に描かれた大きな赤い円",
            "子どもたちが春のお祭りのために黄色い星を描きました",
            "小さな青い船が湖の岸に止まっています",
            "川にかかる古い橋は去年修理されました",
            "祖母は毎週日曜日にりんごのケーキを焼きます",
            "教会の塔から見た雪の町の屋根",
            "雨のあとの庭には花がたくさん咲いています",
            "紙の上に並んだ二つの緑の四角形です",
            "猫が窓のそばの椅子で静かに眠っています",
            "これは展覧会のために作ったポスターです",
        ),
    ),
    Language(
        code="zh",
        charsets=("gb18030", "utf-8"),
        sentences=(
            "学校墙上画着一个很大的红色圆形",
            "孩子们为春天的节日画了黄色的星星",
            "一条蓝色的小船停在湖边",
            "河上的老桥去年已经修好了",
            "奶奶每个星期天都会为全家人做一个苹果蛋糕",
            "从教堂的塔上可以看到城里积雪的屋顶",
            "雨后的花园里开满了鲜花",
            "纸上并排画着两个绿色的正方形",
            "这只猫每天下午都在窗边的椅子上睡觉",
            "这是我们为展览制作的海报",
        ),
    ),
    Language(
        code="pt",
        charsets=("utf-8",),
        sentences=(
            "Um grande círculo vermelho pintado na parede da escola",
            "As crianças desenharam estrelas amarelas para a festa da aldeia",
            "Um pequeno barco azul está parado à beira do lago, junto às árvores",
            "A ponte antiga sobre o rio foi reformada no ano passado",
            "A minha avó faz um bolo de maçã todos os domingos",
            "Vista da torre da igreja sobre os telhados da cidade",
            "O nosso jardim depois da chuva, cheio de flores e folhas molhadas",
            "Dois quadrados verdes lado a lado em uma folha de papel",
            "O gato dorme tranquilamente na cadeira perto da janela",
            "Aqui você pode ver o cartaz que fizemos para a exposição",
            "Um coração roxo bordado em uma almofada de algodão",
            "O padeiro coloca pão fresco na vitrine todas as manhãs",
        ),
    ),
)
"""The languages of the sample web beside English."""
