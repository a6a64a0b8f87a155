"""What TAB offers of the known corpora; made by `python -m ser_cli.reference`."""

# fmt: off

TITLES = {
    "iemocap": "Interactive Emotional Dyadic Motion Capture Database",
    "msp-improv": "MSP-IMPROV",
    "ravdess": "Ryerson Audio-Visual Database of Emotional Speech and Song, speech part",
    "savee": "Surrey Audio-Visual Expressed Emotion database, audio part",
    "msp-podcast": "MSP-Podcast",
    "crema-d": "Crowd-sourced Emotional Multimodal Actors Dataset, audio part",
    "emodb": "Berlin Database of Emotional Speech",
    "tess": "Toronto emotional speech set",
    "esd": "Emotional Speech Database",
    "meld": "Multimodal EmotionLines Dataset",
    "demo": "Demo: synthetic emotional speech, rendered by ser itself"
}

RENDERED = [
    "demo"
]

LABEL_SETS = {
    "iemocap": {
        "4": "angry, happy+excited, sad, neutral",
        "4-no-excited": "angry, happy, sad, neutral",
        "5": "angry, happy+excited, sad, neutral, frustrated",
        "6": "angry, happy, excited, sad, neutral, frustrated"
    },
    "msp-improv": {
        "4": "angry, happy, sad, neutral"
    },
    "ravdess": {
        "8": "neutral, calm, happy, sad, angry, fearful, disgust, surprised",
        "emobox": "neutral, calm, happy, sad, angry, fearful, disgust, surprised",
        "7": "neutral+calm, happy, sad, angry, fearful, disgust, surprised",
        "4": "neutral+calm, happy, sad, angry"
    },
    "savee": {
        "7": "angry, disgust, fearful, happy, neutral, sad, surprised",
        "4": "angry, happy, sad, neutral"
    },
    "msp-podcast": {
        "8": "angry, sad, happy, surprised, fearful, disgust, contempt, neutral",
        "4": "angry, happy, sad, neutral"
    },
    "crema-d": {
        "6": "angry, disgust, fearful, happy, neutral, sad",
        "4": "angry, happy, sad, neutral"
    },
    "emodb": {
        "7": "angry, bored, disgust, fearful, happy, sad, neutral",
        "4": "angry, happy, sad, neutral"
    },
    "tess": {
        "7": "angry, disgust, fearful, happy, neutral, surprised, sad",
        "4": "angry, happy, sad, neutral"
    },
    "esd": {
        "5": "angry, happy, neutral, sad, surprised",
        "4": "angry, happy, sad, neutral"
    },
    "meld": {
        "7": "neutral, happy, surprised, angry, sad, disgust, fearful",
        "4": "angry, happy, sad, neutral"
    },
    "demo": {
        "4": "neutral, happy, sad, angry"
    }
}

PROTOCOLS = {
    "iemocap": {
        "iemocap-5-session": "5 folds by session",
        "iemocap-10-speaker": "10 folds by speaker"
    },
    "msp-improv": {
        "msp-improv-6-session": "6 folds by session",
        "msp-improv-12-speaker": "12 folds by speaker"
    },
    "ravdess": {
        "ravdess-6-emobox": "6 folds by speaker",
        "ravdess-6-balanced": "6 folds by speaker"
    },
    "savee": {
        "savee-4-speaker": "4 folds by speaker"
    },
    "msp-podcast": {
        "msp-podcast-official": "1 folds by partition",
        "msp-podcast-test2": "1 folds by partition"
    },
    "crema-d": {
        "crema-d-5-speaker-block": "5 folds by speaker"
    },
    "emodb": {
        "emodb-10-speaker": "10 folds by speaker"
    },
    "tess": {
        "tess-2-speaker": "2 folds by speaker"
    },
    "esd": {
        "esd-5-emobox": "5 folds by speaker"
    },
    "meld": {
        "meld-official": "1 folds by partition"
    },
    "demo": {
        "demo-2": "2 folds by speaker"
    }
}
