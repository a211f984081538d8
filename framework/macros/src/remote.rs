//! `#[remote]`: a function that can run elsewhere.
//!
//! Beside the function it writes a type of the same name, which has no values: functions and types have names of their
//! own kinds, so `count_words(x)` is the function and `count_words::remote(x)` is of the type. A module would not see
//! the types of a function body, and would hide a user's type of the name of something in it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, Index, Item, ItemFn, Type, Visibility};

use crate::keys;
use crate::result::{Carried, carrier};
use crate::signature::{Of, Returns, Signature};

/// A remote function.
struct Function {
    vis: Visibility,
    docs: Vec<Attribute>,
    conditions: Vec<Attribute>,
    keys: Keys,
    signature: Signature,
}

#[derive(Default)]
struct Keys {
    num_cpus: Option<Expr>,
    num_gpus: Option<Expr>,
    max_retries: Option<u32>,
    retry_errors: Option<(u32, Span)>,
    max_calls: Option<(u32, Span)>,
    timeout_ms: Option<u64>,
    priority: Option<i32>,
    at_most_once: Option<()>,
}

pub(crate) fn expand(keys: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let keys = Keys::read(keys)?;
    let item = match syn::parse2(item)? {
        Item::Fn(item) => item,
        other => {
            return Err(syn::Error::new(other.span(), "#[remote] stands on a function; for methods there is #[actor]"));
        }
    };
    let function = Function::read(keys, &item)?;
    let written = write(&function);
    Ok(quote!(#item #written))
}

impl Keys {
    fn read(keys: TokenStream) -> syn::Result<Self> {
        let mut this = Self::default();
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("num_cpus") {
                keys::once(&mut this.num_cpus, &meta, keys::number(&meta)?)
            } else if meta.path.is_ident("num_gpus") {
                keys::once(&mut this.num_gpus, &meta, keys::number(&meta)?)
            } else if meta.path.is_ident("max_retries") {
                keys::once(&mut this.max_retries, &meta, keys::integer(&meta, 0)?)
            } else if meta.path.is_ident("retry_errors") {
                let count = keys::integer(&meta, 0)?;
                keys::once(&mut this.retry_errors, &meta, (count, meta.path.span()))
            } else if meta.path.is_ident("max_calls") {
                let calls = keys::integer(&meta, 1)?;
                keys::once(&mut this.max_calls, &meta, (calls, meta.path.span()))
            } else if meta.path.is_ident("timeout_ms") {
                keys::once(&mut this.timeout_ms, &meta, keys::integer(&meta, 1)?)
            } else if meta.path.is_ident("priority") {
                keys::once(&mut this.priority, &meta, keys::signed(&meta)?)
            } else if meta.path.is_ident("at_most_once") {
                keys::once(&mut this.at_most_once, &meta, keys::flag(&meta)?)
            } else {
                Err(keys::unknown(&meta, KEYS))
            }
        });
        parser.parse2(keys)?;
        Ok(this)
    }
}

impl Function {
    fn read(keys: Keys, item: &ItemFn) -> syn::Result<Self> {
        let keep =
            |name: &str| item.attrs.iter().filter(|attribute| attribute.path().is_ident(name)).cloned().collect();
        let signature = Signature::read(&item.sig, Of::Function)?;
        if let Returns::Stream(_) = &signature.returns {
            if let Some((_, span)) = keys.retry_errors {
                return Err(syn::Error::new(span, "a stream is never run a second time: leave `retry_errors` out"));
            }
            if let Some((_, span)) = keys.max_calls {
                return Err(syn::Error::new(span, "a stream goes on after its call: leave `max_calls` out"));
            }
        }
        Ok(Self { vis: item.vis.clone(), docs: keep("doc"), conditions: keep("cfg"), keys, signature })
    }
}

fn write(function: &Function) -> TokenStream {
    let Function { vis, docs, conditions, signature, .. } = function;
    let name = &signature.ident;
    let traits = match &signature.returns {
        Returns::Stream(item) => remote_stream(function, item),
        _ => remote_fn(function),
    };
    let calls = calls(function);
    quote! {
        #(#conditions)*
        #(#docs)*
        #[allow(non_camel_case_types)]
        #vis enum #name {}

        #(#conditions)*
        #[allow(missing_docs, non_camel_case_types, private_interfaces, unreachable_pub, clippy::all, clippy::pedantic)]
        const _: () = {
            use ::mobula::__private as __mobula;
            use __mobula::{Fallback as _, FutureExt as _, Join as _};
            #traits
            #calls
        };
    }
}

fn remote_fn(function: &Function) -> TokenStream {
    let Function { signature, .. } = function;
    let (name, args) = (&signature.ident, Ident::new("args", Span::mixed_site()));
    let call = call(signature, &args);
    let awaited = if signature.is_async { quote!(#call.await) } else { call };
    let (reply, error, chain, result) = match &signature.returns {
        Returns::Result(result) => {
            let (carrier, shown) = (carrier(result, Carried::AsText), carrier(result, Carried::AsItIs));
            let chain = quote! {
                fn chain(error: Self::Error) -> __mobula::ErrorChain {
                    <#carrier as __mobula::Explain<_>>::explain(error).into()
                }
            };
            let error = quote!(<#result as __mobula::Returned>::Error);
            let chain = quote! {
                #chain

                fn encode_error(error: &Self::Error, max: usize) -> ::core::option::Option<::std::vec::Vec<u8>> {
                    <#shown as __mobula::Show<#error>>::encode(error, max)
                }
            };
            (
                quote!(<#result as __mobula::Returned>::Value),
                error,
                chain,
                quote!(__mobula::Returned::into_result(#awaited)),
            )
        }
        Returns::Value(value) | Returns::Stream(value) => {
            (quote!(#value), quote!(__mobula::NoError), quote!(), quote!(::core::result::Result::Ok(#awaited)))
        }
    };
    let body = if signature.is_async {
        quote!(__mobula::Body::Async(|#args: Self::Args| ::std::boxed::Box::pin(async move { #result })))
    } else {
        quote!(__mobula::Body::Sync(|#args: Self::Args| #result))
    };
    let constants = constants(function);
    let entry = quote_spanned!(name.span()=> __mobula::FunctionEntry::value::<#name>());
    quote! {
        impl __mobula::RemoteFn for #name {
            type Reply = #reply;
            type Error = #error;
            const BODY: __mobula::Body<Self> = #body;
            #constants
            #chain
        }
        __mobula::inventory::submit! { #entry }
    }
}

fn remote_stream(function: &Function, item: &Type) -> TokenStream {
    let Function { signature, .. } = function;
    let (name, args) = (&signature.ident, Ident::new("args", Span::mixed_site()));
    let call = call(signature, &args);
    let items = if signature.is_async { quote!(async move { #call.await }.flatten_stream()) } else { call };
    let constants = constants(function);
    let entry = quote_spanned!(name.span()=> __mobula::FunctionEntry::stream::<#name>());
    quote! {
        impl __mobula::RemoteStream for #name {
            type Item = #item;
            #constants

            fn open(#args: Self::Args) -> __mobula::LocalBoxStream<'static, #item> {
                ::std::boxed::Box::pin(#items)
            }
        }
        __mobula::inventory::submit! { #entry }
    }
}

/// The call of the function itself. Its arguments keep to their tuple: one may have the function's own name.
fn call(signature: &Signature, args: &Ident) -> TokenStream {
    let name = &signature.ident;
    let at = (0..signature.parameters.len()).map(Index::from);
    quote!(#name(#(#args.#at),*))
}

/// What both kinds of functions say of themselves.
fn constants(function: &Function) -> TokenStream {
    let Function { keys, signature, .. } = function;
    let types = signature.types();
    let name = signature.ident.to_string();
    let num_cpus = keys.num_cpus.as_ref().map(|n| quote!(.num_cpus(#n)));
    let num_gpus = keys.num_gpus.as_ref().map(|n| quote!(.num_gpus(#n)));
    let max_retries = keys.max_retries.map(|n| quote!(.max_retries(#n)));
    let retry_errors = keys.retry_errors.map(|(n, _)| quote!(.retry_errors(#n)));
    let max_calls = keys.max_calls.map(|(n, _)| quote!(.max_calls(#n)));
    let timeout = keys.timeout_ms.map(|ms| quote!(.timeout(::core::time::Duration::from_millis(#ms))));
    let priority = keys.priority.map(|n| quote!(.priority(#n)));
    let at_most_once = keys.at_most_once.map(|()| quote!(.at_most_once()));
    quote! {
        type Args = (#(#types,)*);
        const NAME: &'static str = ::core::concat!(::core::module_path!(), "::", #name);
        const OPTIONS: __mobula::TaskOptions =
            __mobula::TaskOptions::new()
                #num_cpus #num_gpus #max_retries #retry_errors #max_calls #timeout #priority #at_most_once;
    }
}

/// `remote`, and `options` with a `remote` of its own.
fn calls(function: &Function) -> TokenStream {
    let Function { vis, signature, .. } = function;
    let (name, names, types) = (&signature.ident, signature.names(), signature.types());
    let (gives, submit, of) = match &signature.returns {
        Returns::Value(value) => {
            (quote!(__mobula::ObjectRef<#value>), format_ident!("submit"), quote!(__mobula::RemoteFn))
        }
        Returns::Result(result) => (
            quote!(__mobula::ObjectRef<<#result as __mobula::Returned>::Value>),
            format_ident!("submit"),
            quote!(__mobula::RemoteFn),
        ),
        Returns::Stream(item) => {
            (quote!(__mobula::ReplyStream<#item>), format_ident!("submit_stream"), quote!(__mobula::RemoteStream))
        }
    };
    let (setters, of_values) = (setters(vis), of_values(vis, &signature.returns));
    let options = format_ident!("{}_options", name.unraw());
    quote! {
        #vis struct #options(__mobula::TaskOptions);

        impl #name {
            /// Runs the function in the cluster, with the options of its attribute.
            #[track_caller]
            #vis fn remote(#(#names: impl __mobula::IntoArg<#types>),*) -> #gives {
                Self::options().remote(#(#names),*)
            }

            /// Begins a run with other options than those of its attribute.
            #vis fn options() -> #options {
                #options(<Self as #of>::OPTIONS)
            }
        }

        impl #options {
            #setters
            #of_values

            /// Runs the function in the cluster with these options.
            #[track_caller]
            #vis fn remote(self, #(#names: impl __mobula::IntoArg<#types>),*) -> #gives {
                __mobula::#submit::<#name>(&self.0, (#(__mobula::IntoArg::into_arg(#names),)*).join())
            }
        }
    }
}

/// What only those can choose that answer with one value: a stream is never run again, and goes on after its call.
fn of_values(vis: &Visibility, returns: &Returns) -> TokenStream {
    let all = quote! {
        /// Runs after it returned an error or panicked.
        #vis fn retry_errors(self, count: u32) -> Self {
            Self(self.0.retry_errors(count))
        }

        /// Runs in a process that runs nothing else, and ends after so many runs.
        #vis fn max_calls(self, calls: u32) -> Self {
            Self(self.0.max_calls(calls))
        }
    };
    match returns {
        Returns::Stream(_) => quote!(),
        Returns::Value(_) => all,
        Returns::Result(result) => {
            let shown = carrier(result, Carried::AsItIs);
            let shown = quote!(<#shown as __mobula::Show<<#result as __mobula::Returned>::Error>>);
            quote! {
                #all

                /// Runs after it returned an error of which `test` holds, which is called here and must not block; it
                /// sees the error as it is if serde can write it, else its text with its causes.
                #vis fn retry_on(
                    self,
                    test: impl ::core::ops::Fn(&#shown::Shown) -> bool
                        + ::core::marker::Send + ::core::marker::Sync + 'static,
                    count: u32,
                ) -> Self {
                    Self(#shown::retry_on(self.0, test, count))
                }
            }
        }
    }
}

/// The keys of `#[remote]`.
const KEYS: &[&str] =
    &["num_cpus", "num_gpus", "max_retries", "retry_errors", "max_calls", "timeout_ms", "priority", "at_most_once"];

fn setters(vis: &Visibility) -> TokenStream {
    let text = || quote!(impl ::core::convert::Into<::std::string::String>);
    let setters = [
        ("num_cpus", vec![("amount", quote!(f64))], "CPUs it takes while it runs."),
        ("num_gpus", vec![("amount", quote!(f64))], "GPUs it takes while it runs."),
        ("resource", vec![("name", text()), ("amount", quote!(f64))], "How much it takes of a resource of this name."),
        ("label", vec![("key", text()), ("value", text())], "Runs on a node that carries this label."),
        (
            "label_rule",
            vec![("rule", quote!(__mobula::LabelRule))],
            "Runs on a node whose labels are as this rule says; with others, all must hold.",
        ),
        (
            "label_fallback",
            vec![("rules", quote!(impl ::core::convert::Into<__mobula::LabelSelector>))],
            "When the labels of no living node are as was said so far, they must be as these rules say instead.",
        ),
        (
            "on_node_soft",
            vec![("node", quote!(__mobula::NodeId))],
            "Runs on this node, waiting for it; elsewhere when it is dead or drained, or can never do.",
        ),
        ("on_node", vec![("node", quote!(__mobula::NodeId))], "Runs on this node, or not at all."),
        ("strategy", vec![("strategy", quote!(__mobula::PlacementStrategy))], "Which of the nodes that fit is taken."),
        ("spread_nodes", vec![], "Runs on the node that is used least."),
        (
            "in_group",
            vec![("group", quote!(impl ::core::convert::Into<__mobula::GroupId>))],
            "Takes what it needs of a placement group, of any bundle that has room, and of nothing else.",
        ),
        (
            "in_bundle",
            vec![("group", quote!(impl ::core::convert::Into<__mobula::GroupId>)), ("bundle", quote!(u32))],
            "Takes what it needs of this bundle of a placement group, and of nothing else.",
        ),
        ("isolated", vec![], "Runs in a process of its own."),
        ("at_most_once", vec![], "Never runs again once it may have begun."),
        ("max_retries", vec![("count", quote!(u32))], "Runs after failures of the system."),
        ("timeout", vec![("timeout", quote!(::core::time::Duration))], "When it is of no use any more."),
        (
            "priority",
            vec![("priority", quote!(i32))],
            "Goes before tasks of its job that wait for the same resources and have a lower one; 0 unless said.",
        ),
        (
            "when_full",
            vec![("when_full", quote!(__mobula::WhenFull))],
            "What its submission does that finds the queue full: it waits, where it may.",
        ),
        ("name", vec![("name", text())], "What lists and logs call it."),
    ];
    let written = setters.map(|(setter, parameters, doc)| {
        let setter = format_ident!("{setter}");
        let names: Vec<_> = parameters.iter().map(|(name, _)| format_ident!("{name}")).collect();
        let types = parameters.iter().map(|(_, ty)| ty);
        quote! {
            #[doc = #doc]
            #vis fn #setter(self, #(#names: #types),*) -> Self {
                Self(self.0.#setter(#(#names),*))
            }
        }
    });
    quote!(#(#written)*)
}
